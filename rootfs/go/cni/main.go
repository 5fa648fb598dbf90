// Command cni is the CNI plugins that a node uses in one file: the base name of argv[0] chooses.
//
// It is built with the overlay that gen.go makes of upstream's programs.
package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"perigee/cni/bridge"
	"perigee/cni/hostlocal"
	"perigee/cni/loopback"
	"perigee/cni/portmap"
	"perigee/cni/ptp"
)

var plugins = map[string]func(){
	"bridge":     bridge.Main,
	"host-local": hostlocal.Main,
	"loopback":   loopback.Main,
	"portmap":    portmap.Main,
	"ptp":        ptp.Main,
}

func main() {
	name := filepath.Base(os.Args[0])
	plugin, known := plugins[name]
	if !known {
		fmt.Fprintf(os.Stderr, "cni: argv[0] is %q, expected one of: %s\n", name,
			strings.Join(slices.Sorted(maps.Keys(plugins)), ", "))
		os.Exit(2)
	}
	plugin()
}
