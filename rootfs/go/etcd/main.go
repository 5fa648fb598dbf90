// Command etcd is the cluster's store: upstream's server with its state reported to the service manager. Called as
// etcd-seed it fills the store of an empty cluster.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/server/v3/etcdmain"
	"perigee/etcd/internal/seeding"
	"perigee/notify"
)

func main() {
	if filepath.Base(os.Args[0]) == "etcd-seed" {
		os.Exit(seeding.Main(context.Background(), os.Args[1:]))
	}
	if err := notify.Start(notify.HTTP, ""); err != nil {
		fmt.Fprintln(os.Stderr, "etcd:", err)
		os.Exit(2)
	}
	etcdmain.Main(os.Args)
}
