// Command containerd is the container runtime with the plugins that a node needs. Called as image-import it
// brings an OCI archive into the one that runs.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/cmd/containerd/command"
	"github.com/containerd/containerd/v2/defaults"
	"perigee/containerd/internal/cri"
	"perigee/containerd/internal/imageimport"
	"perigee/notify"
)

func main() {
	ctx := context.Background()
	if filepath.Base(os.Args[0]) == "image-import" {
		os.Exit(imageimport.Main(ctx, os.Args[1:]))
	}
	if err := notify.Start(cri.Answers, "unix://"+defaults.DefaultAddress); err != nil {
		fmt.Fprintln(os.Stderr, "containerd:", err)
		os.Exit(2)
	}
	if err := command.App().Run(ctx, os.Args); err != nil {
		fmt.Fprintln(os.Stderr, "containerd:", err)
		os.Exit(1)
	}
}
