package notify

import (
	"fmt"
	"os"
	"runtime/debug"
)

const meminfo = "/proc/meminfo"

// machineMemory is MemTotal of a file like /proc/meminfo, in bytes.
func machineMemory(path string) (int64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	var kib int64
	if _, err := fmt.Sscanf(string(text), "MemTotal: %d kB", &kib); err != nil || kib <= 0 {
		return 0, fmt.Errorf("%s: expected a first line like \"MemTotal: 1011512 kB\"", path)
	}
	return kib * 1024, nil
}

// boundMemory lowers GOMEMLIMIT to limit bytes: where memory is short, collecting more often costs less than reading
// again the program text that a larger heap would push out.
func boundMemory(limit int64) {
	if debug.SetMemoryLimit(-1) > limit {
		debug.SetMemoryLimit(limit)
	}
}
