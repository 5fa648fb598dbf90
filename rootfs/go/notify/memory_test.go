package notify

import (
	"os"
	"path/filepath"
	"runtime/debug"
	"testing"
)

func TestTheMachinesMemoryIsTheFirstLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "meminfo")
	for text, want := range map[string]int64{
		"MemTotal:         419836 kB\nMemFree: 1 kB\n": 419836 * 1024,
		"MemFree: 1 kB\n":     0,
		"MemTotal: many kB\n": 0,
		"MemTotal: -1 kB\n":   0,
		"":                    0,
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := machineMemory(path); got != want || (err != nil) != (want == 0) {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
	if _, err := machineMemory(path + ".none"); err == nil {
		t.Error("no file is no error")
	}
}

func TestOnlyALowerBoundCounts(t *testing.T) {
	before := debug.SetMemoryLimit(1 << 30)
	defer debug.SetMemoryLimit(before)
	for _, step := range []struct{ limit, want int64 }{{2 << 30, 1 << 30}, {1 << 29, 1 << 29}} {
		if boundMemory(step.limit); debug.SetMemoryLimit(-1) != step.want {
			t.Errorf("%d: %d", step.limit, debug.SetMemoryLimit(-1))
		}
	}
}
