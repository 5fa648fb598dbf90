//go:build ignore

// Command gen makes packages of the CNI plugins' programs, so that one binary can hold them all.
//
// Upstream's plugins are main packages, which Go does not import. This copies their sources from the module
// cache (go.sum says which) into the folder given, changes "package main" and "func main()" there and nothing
// else, and writes overlay.json, with which `go build -overlay` sees them as packages of this module.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const upstream = "github.com/containernetworking/plugins"

// plugins maps the package that main.go imports to upstream's folder.
var plugins = map[string]string{
	"bridge":    "plugins/main/bridge",
	"hostlocal": "plugins/ipam/host-local",
	"loopback":  "plugins/main/loopback",
	"portmap":   "plugins/meta/portmap",
	"ptp":       "plugins/main/ptp",
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: go run gen.go <folder>")
		os.Exit(2)
	}
	if err := generate(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func generate(out string) error {
	here, err := os.Getwd()
	if err != nil {
		return err
	}
	module, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", upstream).Output()
	if err != nil {
		return fmt.Errorf("go list -m %s: %w", upstream, err)
	}
	replace := map[string]string{}
	for name, folder := range plugins {
		sources, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(module)), folder, "*.go"))
		if err != nil {
			return err
		}
		made := filepath.Join(out, name)
		if err := os.MkdirAll(made, 0o755); err != nil {
			return err
		}
		mains := 0
		for _, source := range sources {
			if strings.HasSuffix(source, "_test.go") {
				continue
			}
			text, err := os.ReadFile(source)
			if err != nil {
				return err
			}
			if strings.Count(string(text), "\npackage main\n") != 1 {
				return fmt.Errorf("%s: expected one line \"package main\"; look at what upstream changed", source)
			}
			mains += strings.Count(string(text), "\nfunc main() {\n")
			changed := strings.NewReplacer(
				"\npackage main\n", "\npackage "+name+"\n",
				"\nfunc main() {\n", "\nfunc Main() {\n",
			).Replace(string(text))
			target := filepath.Join(made, filepath.Base(source))
			if err := os.WriteFile(target, []byte(changed), 0o644); err != nil {
				return err
			}
			replace[filepath.Join(here, name, filepath.Base(source))] = target
		}
		if mains != 1 {
			return fmt.Errorf("%s: found %d of func main(), expected 1; look at what upstream changed", folder, mains)
		}
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(out, "overlay.json"), overlay, 0o644)
}
