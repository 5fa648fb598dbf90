// Command etcd is the cluster's store: upstream's server with its state reported to the service manager.
package main

import (
	"fmt"
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
	"perigee/notify"
)

func main() {
	if err := notify.Start(notify.HTTP, ""); err != nil {
		fmt.Fprintln(os.Stderr, "etcd:", err)
		os.Exit(2)
	}
	etcdmain.Main(os.Args)
}
