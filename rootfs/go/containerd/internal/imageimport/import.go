// Package imageimport brings the images of an OCI archive into a running containerd, where the CRI sees them
// as managed and pinned: the kubelet's garbage collection never takes what cannot be pulled again.
package imageimport

import (
	"context"
	"fmt"
	"os"
	"strings"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/errdefs"
)

const usage = "usage: image-import <archive> [socket] [--done FILE]\n" +
	"example: image-import /usr/share/images.tar " + defaults.DefaultAddress + " --done /run/images\n"

// namespace is the one that the CRI reads (internal/cri/constants in containerd).
const namespace = "k8s.io"

// criLabels are what the CRI itself sets (internal/cri/labels in containerd). With them set from the start, it
// has nothing to write when it hears of the image.
var criLabels = map[string]string{
	"io.cri-containerd.image":  "managed",
	"io.cri-containerd.pinned": "pinned",
}

// Main is the program with its arguments; it returns the exit code: 0 done, 1 failed, 2 wrong use.
func Main(ctx context.Context, args []string) int {
	r, err := parse(args)
	if err != nil {
		fmt.Fprintf(os.Stderr, "image-import: %v\n%s", err, usage)
		return 2
	}
	imported, err := r.run(ctx)
	if err != nil {
		fmt.Fprintf(os.Stderr, "image-import: archive=%s error=%q\n", r.archive, err)
		return 1
	}
	fmt.Fprintf(os.Stderr, "image-import: archive=%s imported=%d\n", r.archive, imported)
	return 0
}

// request is what the arguments ask for.
type request struct {
	archive string
	socket  string
	done    string // this file is made when all images are there; "" makes none
}

func parse(args []string) (request, error) {
	r := request{socket: defaults.DefaultAddress}
	var plain []string
	for i := 0; i < len(args); i++ {
		switch {
		case args[i] == "--done" && i+1 < len(args):
			i++
			r.done = args[i]
		case strings.HasPrefix(args[i], "-"):
			return r, fmt.Errorf("%s: expected --done FILE, or no option", args[i])
		default:
			plain = append(plain, args[i])
		}
	}
	switch len(plain) {
	case 2:
		r.socket = plain[1]
		fallthrough
	case 1:
		r.archive = plain[0]
		return r, nil
	}
	return r, fmt.Errorf("%d arguments: expected an archive, and a socket or none", len(plain))
}

// run imports unless all is there, and returns how many images that took.
func (r request) run(ctx context.Context) (int, error) {
	imported, err := bring(ctx, r.archive, r.socket)
	if err != nil || r.done == "" {
		return imported, err
	}
	return imported, os.WriteFile(r.done, nil, 0o644)
}

// bring returns how many images it imported: all of the archive's, or 0 when all were there.
//
// It does not unpack: the CRI unpacks an image when its first container is made (WithNewSnapshot in containerd's
// internal/cri/opts), so a node does not pay at boot for images that it does not run.
func bring(ctx context.Context, path, socket string) (int, error) {
	archive, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer archive.Close()
	wanted, err := namedImages(archive)
	if err != nil {
		return 0, err
	}
	client, err := containerd.New(socket, containerd.WithDefaultNamespace(namespace))
	if err != nil {
		return 0, err
	}
	defer client.Close()
	present, err := allPresent(ctx, client.ImageService(), wanted)
	if err != nil {
		return 0, fmt.Errorf("ask containerd at %s: %w", socket, err)
	}
	if present {
		return 0, nil
	}
	if _, err := archive.Seek(0, 0); err != nil {
		return 0, err
	}
	imported, err := client.Import(ctx, archive, containerd.WithImageLabels(criLabels))
	if err != nil {
		return 0, fmt.Errorf("import by containerd at %s: %w", socket, err)
	}
	return len(imported), nil
}

type getter interface {
	Get(ctx context.Context, name string) (images.Image, error)
}

// allPresent says whether the store has each image with the same target and with the CRI's labels.
func allPresent(ctx context.Context, store getter, wanted []images.Image) (bool, error) {
	for _, image := range wanted {
		found, err := store.Get(ctx, image.Name)
		if errdefs.IsNotFound(err) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if found.Target.Digest != image.Target.Digest {
			return false, nil
		}
		for label, value := range criLabels {
			if found.Labels[label] != value {
				return false, nil
			}
		}
	}
	return true, nil
}
