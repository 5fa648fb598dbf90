package notify

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"
)

// wait returns when all that WAIT_FOR names is there, so that the daemon's text is in memory and its packages are
// initialised in parallel with what it waits for:
//
//	grpc:/path           a gRPC server on the socket says so: a stopped one accepts, too, and answers nothing
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
	case "grpc":
		return serves(rest), true, absolute(rest)
	case "file":
		return exists(rest), true, absolute(rest)
	case "http", "https":
		check, err = HTTP(kind + "://" + strings.TrimPrefix(rest, "//"))
		return check, false, err
	}
	return nil, false, fmt.Errorf("expected grpc:, file:, http: or https:, as in grpc:/run/containerd/containerd.sock")
}

func absolute(path string) error {
	if !strings.HasPrefix(path, "/") {
		return fmt.Errorf("path is %q, expected one from the root", path)
	}
	return nil
}

// serves is whether an HTTP/2 server's SETTINGS, its first frame, come from the socket (RFC 9113, sections 3.4 and 4.1).
func serves(path string) Check {
	const (
		preface     = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
		headerBytes = 9
		typeAt      = 3
		settings    = 4
	)
	return func(ctx context.Context) error {
		var dialer net.Dialer
		conn, err := dialer.DialContext(ctx, "unix", path)
		if err != nil {
			return err
		}
		defer conn.Close()
		if deadline, bounded := ctx.Deadline(); bounded {
			if err := conn.SetDeadline(deadline); err != nil {
				return err
			}
		}
		if _, err := io.WriteString(conn, preface); err != nil {
			return err
		}
		var header [headerBytes]byte
		if _, err := io.ReadFull(conn, header[:]); err != nil {
			return err
		}
		if header[typeAt] != settings {
			return fmt.Errorf("%s: expected HTTP/2 SETTINGS, got a frame of type %d", path, header[typeAt])
		}
		return nil
	}
}

func exists(path string) Check {
	return func(context.Context) error {
		_, err := os.Stat(path)
		return err
	}
}
