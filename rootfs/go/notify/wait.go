package notify

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"time"
)

// wait returns when all that WAIT_FOR names is there, so that the daemon's text is in memory and its packages are
// initialised in parallel with what it waits for:
//
//	unix:/path           something accepts on the socket
//	file:/path           the file exists
//	https:HOST:PORT/path a GET on this machine answers 200 (http: likewise)
//
// Sockets and files are waited for without a bound: without them the daemon cannot run. An answer is waited for
// until atMost has passed since the start (0 is without a bound): it only lets another daemon go first, and a node
// must come up without it.
func (s settings) wait(ctx context.Context, log func(line string)) error {
	bounded := ctx
	if s.atMost > 0 {
		var cancel context.CancelFunc
		bounded, cancel = context.WithTimeout(ctx, s.atMost)
		defer cancel()
	}
	for _, item := range s.waitFor {
		check, needed, err := waitCheck(item)
		if err != nil {
			return fmt.Errorf("WAIT_FOR %q: %w", item, err)
		}
		started := time.Now()
		if needed {
			if err := poll(ctx, check); err != nil {
				return err
			}
		} else if poll(bounded, check) != nil {
			log(fmt.Sprintf("notify: waited_for=%s result=gone_on_without", item))
			continue
		}
		log(fmt.Sprintf("notify: waited_for=%s ms=%d", item, time.Since(started).Milliseconds()))
	}
	return nil
}

// waitCheck is the check that item stands for, and whether the daemon needs it.
func waitCheck(item string) (check Check, needed bool, err error) {
	kind, rest, _ := strings.Cut(item, ":")
	switch kind {
	case "unix":
		return accepts(rest), true, absolute(rest)
	case "file":
		return exists(rest), true, absolute(rest)
	case "http", "https":
		check, err = HTTP(kind + "://" + strings.TrimPrefix(rest, "//"))
		return check, false, err
	}
	return nil, false, fmt.Errorf("expected unix:, file:, http: or https:, as in unix:/run/containerd/containerd.sock")
}

func absolute(path string) error {
	if !strings.HasPrefix(path, "/") {
		return fmt.Errorf("path is %q, expected one from the root", path)
	}
	return nil
}

func accepts(path string) Check {
	return func(ctx context.Context) error {
		var dialer net.Dialer
		conn, err := dialer.DialContext(ctx, "unix", path)
		if err != nil {
			return err
		}
		return conn.Close()
	}
}

func exists(path string) Check {
	return func(context.Context) error {
		_, err := os.Stat(path)
		return err
	}
}
