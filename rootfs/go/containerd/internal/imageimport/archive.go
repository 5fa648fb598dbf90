package imageimport

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"

	"github.com/containerd/containerd/v2/core/images"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// indexLimit is the longest index.json that is read: some thousand images.
const indexLimit = 1 << 20

// namedImages is what an OCI archive brings: each named image and the descriptor that its name stands for.
//
// The form is an OCI image layout in a tar file (image-spec v1.1, image-layout.md); a name is the annotation
// io.containerd.image.name of an entry in index.json.
func namedImages(archive io.Reader) ([]images.Image, error) {
	index, err := readIndex(archive)
	if err != nil {
		return nil, err
	}
	var named []images.Image
	for _, entry := range index.Manifests {
		if name := entry.Annotations[images.AnnotationImageName]; name != "" {
			named = append(named, images.Image{Name: name, Target: entry})
		}
	}
	if len(named) == 0 {
		return nil, fmt.Errorf("%s names no image: expected the annotation %s",
			ocispec.ImageIndexFile, images.AnnotationImageName)
	}
	return named, nil
}

func readIndex(archive io.Reader) (index ocispec.Index, err error) {
	files := tar.NewReader(archive)
	for {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			return index, fmt.Errorf("no %s: expected an OCI image layout in a tar file", ocispec.ImageIndexFile)
		}
		if err != nil {
			return index, fmt.Errorf("not a whole tar file: %w", err)
		}
		if path.Clean(header.Name) != ocispec.ImageIndexFile {
			continue
		}
		if err := json.NewDecoder(io.LimitReader(files, indexLimit)).Decode(&index); err != nil {
			return index, fmt.Errorf("%s: %w", ocispec.ImageIndexFile, err)
		}
		return index, nil
	}
}
