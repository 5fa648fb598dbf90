// Package imageimport brings the images of OCI archives into a running containerd, where the CRI sees them
// as managed and pinned: the kubelet's garbage collection never takes what cannot be pulled again.
package imageimport

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/errdefs"
)

const usage = "usage: image-import <archive or folder of *.tar> [socket] [--done FILE]\n" +
	"example: image-import /usr/share/images " + defaults.DefaultAddress + " --done /run/images\n"

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
		fmt.Fprintf(os.Stderr, "image-import: from=%s error=%q\n", r.from, err)
		return 1
	}
	fmt.Fprintf(os.Stderr, "image-import: from=%s imported=%d\n", r.from, imported)
	return 0
}

// request is what the arguments ask for.
type request struct {
	from   string // an archive, or a folder of them
	socket string
	done   string // this file is made when all images are there; "" makes none
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
		r.from = plain[0]
		return r, nil
	}
	return r, fmt.Errorf("%d arguments: expected an archive or a folder of them, and a socket or none", len(plain))
}

// run imports what is not there, and returns how many images that took.
func (r request) run(ctx context.Context) (int, error) {
	archives, err := archivesOf(r.from)
	if err != nil {
		return 0, err
	}
	client, err := containerd.New(r.socket, containerd.WithDefaultNamespace(namespace))
	if err != nil {
		return 0, fmt.Errorf("connect to containerd at %s: %w", r.socket, err)
	}
	defer client.Close()
	imported := 0
	for _, archive := range archives {
		count, err := bring(ctx, client, archive)
		if err != nil {
			return imported, fmt.Errorf("%s, containerd at %s: %w", archive, r.socket, err)
		}
		imported += count
	}
	if r.done == "" {
		return imported, nil
	}
	return imported, os.WriteFile(r.done, nil, 0o644)
}

// archivesOf is the path itself, or the archives in it if it is a folder, by name.
func archivesOf(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil || !info.IsDir() {
		return []string{path}, err
	}
	archives, err := filepath.Glob(filepath.Join(path, "*.tar"))
	if err == nil && len(archives) == 0 {
		err = fmt.Errorf("no *.tar in the folder %s", path)
	}
	return archives, err
}

// bring returns how many images it imported: all of the archive's, or 0 when all were there.
//
// It does not unpack: the CRI unpacks an image when its first container is made (WithNewSnapshot in containerd's
// internal/cri/opts), so a node does not pay at boot for images that it does not run.
func bring(ctx context.Context, client *containerd.Client, path string) (int, error) {
	archive, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer archive.Close()
	wanted, err := namedImages(archive)
	if err != nil {
		return 0, err
	}
	present, err := allPresent(ctx, client.ImageService(), wanted)
	if err != nil {
		return 0, fmt.Errorf("ask for its images: %w", err)
	}
	if present {
		return 0, nil
	}
	if _, err := archive.Seek(0, 0); err != nil {
		return 0, err
	}
	imported, err := client.Import(ctx, archive, containerd.WithImageLabels(criLabels))
	if err != nil {
		return 0, fmt.Errorf("import: %w", err)
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
