package imageimport

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

const twoImages = `{"schemaVersion":2,"manifests":[
	{"digest":"sha256:aa","size":1,"annotations":{"io.containerd.image.name":"perigee/a:1"}},
	{"digest":"sha256:cc","size":1},
	{"digest":"sha256:bb","size":1,"annotations":{"io.containerd.image.name":"perigee/b:1"}}]}`

// archiveOf is a tar file with the contents of each file by its name, in the order given.
func archiveOf(t *testing.T, files ...[2]string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, file := range files {
		if err := w.WriteHeader(&tar.Header{Name: file[0], Mode: 0o644, Size: int64(len(file[1]))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(file[1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestNamedImagesAreFoundWhereverTheIndexIs(t *testing.T) {
	blob := [2]string{"blobs/sha256/aa", "x"}
	for _, name := range []string{"index.json", "./index.json"} {
		index := [2]string{name, twoImages}
		for _, archive := range [][]byte{archiveOf(t, index, blob), archiveOf(t, blob, index)} {
			named, err := namedImages(bytes.NewReader(archive))
			if err != nil {
				t.Fatal(err)
			}
			if len(named) != 2 || named[0].Name != "perigee/a:1" || named[1].Target.Digest != "sha256:bb" {
				t.Errorf("found %v", named)
			}
		}
	}
}

func TestAnArchiveThatIsNoneIsAnError(t *testing.T) {
	whole := archiveOf(t, [2]string{"blobs/sha256/aa", "x"}, [2]string{"index.json", twoImages})
	for what, archive := range map[string][]byte{
		"empty":        nil,
		"garbage":      bytes.Repeat([]byte("garbage!"), 200),
		"cut short":    whole[:1100],
		"no index":     archiveOf(t, [2]string{"oci-layout", "{}"}),
		"index broken": archiveOf(t, [2]string{"index.json", twoImages[:30]}),
		"no names":     archiveOf(t, [2]string{"index.json", `{"manifests":[{"digest":"sha256:aa"}]}`}),
	} {
		if named, err := namedImages(bytes.NewReader(archive)); err == nil {
			t.Errorf("%s: found %v", what, named)
		}
	}
}

// store is an image store by name; an image called "" makes it fail.
type store map[string]images.Image

func (s store) Get(_ context.Context, name string) (images.Image, error) {
	if _, broken := s[""]; broken {
		return images.Image{}, errors.New("broken")
	}
	image, found := s[name]
	if !found {
		return image, errdefs.ErrNotFound
	}
	return image, nil
}

func image(name, target string, labels map[string]string) images.Image {
	made := images.Image{Name: name, Labels: labels}
	made.Target.Digest = digest.Digest(target)
	return made
}

func TestImagesArePresentOnlyWithTheSameTargetAndLabels(t *testing.T) {
	wanted := []images.Image{image("a", "sha256:aa", nil), image("b", "sha256:bb", nil)}
	a := image("a", "sha256:aa", criLabels)
	for what, row := range map[string]struct {
		store   store
		present bool
	}{
		"all":          {store{"a": a, "b": image("b", "sha256:bb", criLabels)}, true},
		"one missing":  {store{"a": a}, false},
		"other target": {store{"a": a, "b": image("b", "sha256:cc", criLabels)}, false},
		"not pinned":   {store{"a": a, "b": image("b", "sha256:bb", nil)}, false},
	} {
		present, err := allPresent(t.Context(), row.store, wanted)
		if err != nil || present != row.present {
			t.Errorf("%s: %v, %v", what, present, err)
		}
	}
	if _, err := allPresent(t.Context(), store{"": {}}, wanted); err == nil {
		t.Error("a store that fails was believed")
	}
}

func TestWrongUseIsToldFromFailure(t *testing.T) {
	archive := filepath.Join(t.TempDir(), "images.tar")
	if err := os.WriteFile(archive, archiveOf(t, [2]string{"index.json", twoImages}), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		args []string
		code int
	}{
		{nil, 2}, {[]string{"a", "b", "c"}, 2}, {[]string{"--help"}, 2}, {[]string{"a", "--done"}, 2},
		{[]string{"/does/not/exist"}, 1}, {[]string{archive, archive}, 1},
	} {
		if code := Main(t.Context(), row.args); code != row.code {
			t.Errorf("%v: exit code %d, expected %d", row.args, code, row.code)
		}
	}
}

func TestOptionsMayStandAnywhere(t *testing.T) {
	for _, args := range [][]string{{"a", "s", "--done", "d"}, {"--done", "d", "a", "s"}, {"a", "--done", "d", "s"}} {
		if r, err := parse(args); err != nil || r != (request{from: "a", socket: "s", done: "d"}) {
			t.Errorf("%v: %+v, %v", args, r, err)
		}
	}
}

func TestAFolderStandsForItsArchives(t *testing.T) {
	folder := t.TempDir()
	if found, err := archivesOf(folder); err == nil {
		t.Errorf("an empty folder has %v", found)
	}
	for _, name := range []string{"b.tar", "a.tar", "notes.txt"} {
		if err := os.WriteFile(filepath.Join(folder, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	all := []string{filepath.Join(folder, "a.tar"), filepath.Join(folder, "b.tar")}
	for path, expected := range map[string][]string{folder: all, all[0]: all[:1]} {
		if found, err := archivesOf(path); err != nil || !slices.Equal(found, expected) {
			t.Errorf("%s: %v, %v", path, found, err)
		}
	}
	if found, err := archivesOf(filepath.Join(folder, "c.tar")); err == nil {
		t.Errorf("what is not there is %v", found)
	}
}
