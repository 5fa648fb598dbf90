package seedfile

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"strings"
	"testing"
)

func file(t *testing.T) []byte {
	t.Helper()
	file, err := Encode(map[string][]byte{"/b": []byte("2"), "/a": []byte("1"), "/c": nil})
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// summed is a file with this between its magic and its sum.
func summed(between string) []byte {
	file := []byte(magic + between)
	sum := sha256.Sum256(file)
	return append(file, sum[:]...)
}

func TestWhatIsEncodedIsDecodedByKey(t *testing.T) {
	entries, err := Decode(file(t))
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	for _, entry := range entries {
		said = append(said, string(entry.Key)+"="+string(entry.Value))
	}
	if !slices.Equal(said, []string{"/a=1", "/b=2", "/c="}) {
		t.Error(said)
	}
}

func TestTheSameEntriesGiveTheSameBytes(t *testing.T) {
	for range 20 {
		if !bytes.Equal(file(t), file(t)) {
			t.Fatal("they differ")
		}
	}
}

func TestEveryFlippedBitIsFound(t *testing.T) {
	whole := file(t)
	for place := range whole {
		for bit := range 8 {
			damaged := bytes.Clone(whole)
			damaged[place] ^= 1 << bit
			if _, err := Decode(damaged); err == nil {
				t.Fatalf("bit %d of byte %d", bit, place)
			}
		}
	}
}

func TestAFileCutShortAnywhereIsRefused(t *testing.T) {
	whole := file(t)
	for end := range whole {
		if _, err := Decode(whole[:end]); err == nil {
			t.Fatalf("after %d bytes", end)
		}
	}
}

func TestMistakesAreNamed(t *testing.T) {
	for _, row := range []struct {
		between, expected string
	}{
		{"\x01\x00\x00", "a number where 3 bytes are left"},
		{"\x01\x00\x00\x00\x09\x00\x00\x00/a", "a field of 9 bytes where 2 are left"},
		{"\x00\x00\x00\x00/a", "2 bytes after the last of 0 entries"},
		{"\xff\xff\xff\xff", "a number where 0 bytes are left"},
		{"\x02\x00\x00\x00\x01\x00\x00\x00b\x00\x00\x00\x00\x01\x00\x00\x00a\x00\x00\x00\x00", `key "a" stands after "b"`},
		{"\x02\x00\x00\x00\x01\x00\x00\x00a\x00\x00\x00\x00\x01\x00\x00\x00a\x00\x00\x00\x00", `key "a" stands after "a"`},
	} {
		if _, err := Decode(summed(row.between)); err == nil || !strings.Contains(err.Error(), row.expected) {
			t.Errorf("%q: %v, expected %q", row.between, err, row.expected)
		}
	}
	if _, err := Decode(make([]byte, MaxBytes+1)); err == nil {
		t.Error("a file that is too long was taken")
	}
	if _, err := Encode(map[string][]byte{"/a": make([]byte, MaxBytes)}); err == nil {
		t.Error("a file that is too long was made")
	}
}
