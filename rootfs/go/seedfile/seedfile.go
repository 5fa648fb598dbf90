// Package seedfile is the file that an empty cluster store is filled from: keys of etcd with their values.
//
//	offset  bytes  what
//	0       8      "PGSEED01": the name, and the version 1
//	8       4      how many entries follow
//	12      …      the entries, by key, ascending, no key twice; each:
//	               4  length of the key, then the key
//	               4  length of the value, then the value
//	end−32  32     SHA-256 of all bytes before it
//
// Numbers are unsigned, little-endian. The same entries give the same bytes.
package seedfile

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
)

const (
	magic = "PGSEED01"
	// MaxBytes is how long a file may be: etcd takes one request of 1.5 MiB (--max-request-bytes), and the file goes
	// into one.
	MaxBytes = 1 << 20
)

// Entry is one key with its value.
type Entry struct {
	Key, Value []byte
}

// Encode makes a file of values by their keys.
func Encode(values map[string][]byte) ([]byte, error) {
	file := binary.LittleEndian.AppendUint32([]byte(magic), uint32(len(values)))
	for _, key := range slices.Sorted(maps.Keys(values)) {
		file = appendField(appendField(file, []byte(key)), values[key])
	}
	sum := sha256.Sum256(file)
	file = append(file, sum[:]...)
	if len(file) > MaxBytes {
		return nil, fmt.Errorf("%d bytes: expected at most %d", len(file), MaxBytes)
	}
	return file, nil
}

// Decode gives the entries of a file. Any bytes in, all of the entries or an error out.
func Decode(file []byte) ([]Entry, error) {
	if len(file) > MaxBytes {
		return nil, fmt.Errorf("%d bytes: expected at most %d", len(file), MaxBytes)
	}
	if !bytes.HasPrefix(file, []byte(magic)) {
		return nil, fmt.Errorf("does not begin with %q", magic)
	}
	end := len(file) - sha256.Size
	if end < len(magic) {
		return nil, fmt.Errorf("cut short: %d bytes", len(file))
	}
	if sum := sha256.Sum256(file[:end]); !bytes.Equal(sum[:], file[end:]) {
		return nil, fmt.Errorf("damaged: its SHA-256 is not the one at its end")
	}
	return entries(file[len(magic):end])
}

// entries reads what stands between the magic and the sum.
func entries(rest []byte) (all []Entry, err error) {
	count, rest, err := number(rest)
	if err != nil {
		return nil, err
	}
	for range count {
		var entry Entry
		if entry.Key, rest, err = field(rest); err != nil {
			return nil, err
		}
		if entry.Value, rest, err = field(rest); err != nil {
			return nil, err
		}
		if last := len(all) - 1; last >= 0 && bytes.Compare(all[last].Key, entry.Key) >= 0 {
			return nil, fmt.Errorf("key %q stands after %q: expected ascending keys", entry.Key, all[last].Key)
		}
		all = append(all, entry)
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("%d bytes after the last of %d entries", len(rest), count)
	}
	return all, nil
}

func appendField(file, field []byte) []byte {
	return append(binary.LittleEndian.AppendUint32(file, uint32(len(field))), field...)
}

func field(rest []byte) (field, after []byte, err error) {
	length, rest, err := number(rest)
	if err != nil {
		return nil, nil, err
	}
	if uint64(length) > uint64(len(rest)) {
		return nil, nil, fmt.Errorf("a field of %d bytes where %d are left", length, len(rest))
	}
	return rest[:length], rest[length:], nil
}

func number(rest []byte) (number uint32, after []byte, err error) {
	const size = 4
	if len(rest) < size {
		return 0, nil, fmt.Errorf("a number where %d bytes are left", len(rest))
	}
	return binary.LittleEndian.Uint32(rest), rest[size:], nil
}
