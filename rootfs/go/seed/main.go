// Command seed writes what an API server creates for itself in an empty cluster, as it would store it, into a file
// that an etcd is filled from (perigee/seedfile). It runs on the host, at image build.
package main

import (
	"fmt"
	"os"

	"perigee/seedfile"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: seed FILE")
		os.Exit(2)
	}
	if err := write(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "seed:", err)
		os.Exit(1)
	}
}

func write(path string) error {
	values, err := stored(objects())
	if err != nil {
		return err
	}
	file, err := seedfile.Encode(values)
	if err != nil {
		return err
	}
	return os.WriteFile(path, file, 0o644)
}
