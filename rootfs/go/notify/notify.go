// Package notify keeps a daemon and the service manager in step, before and beside upstream's own code.
//
// It waits for what the daemon needs (WAIT_FOR), reports by the datagrams of sd_notify(3) what the daemon's own
// health endpoint says (HEALTH_URL), changes the garbage collector's pace when it is ready (GOGC_READY), and bounds the
// heap on a small machine (GOMEMLIMIT_SHARE).
package notify

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime/debug"
)

// Open makes a check of the address of a health endpoint.
type Open func(address string) (Check, error)

// Check asks the program itself how it is; nil means well.
type Check func(context.Context) error

// Start waits, then reports from a goroutine until the process ends. Call it before the program's own main.
//
// The variables that it reads (see settings) are removed from the environment: upstream's daemons send READY=1
// when they begin to listen, and WATCHDOG=1 whether or not they answer, and those must not count beside these.
// Without NOTIFY_SOCKET nothing is sent. Without HEALTH_URL, health is the address that is asked; when that is
// empty too, upstream's own reports stay.
func Start(open Open, health string) error {
	s, err := take(health)
	if err != nil {
		return err
	}
	if s.share > 0 {
		total, err := machineMemory(meminfo)
		if err != nil {
			return fmt.Errorf("GOMEMLIMIT_SHARE: %w", err)
		}
		boundMemory(total / 100 * s.share)
	}
	if err := s.wait(context.Background(), logLine); err != nil {
		return err
	}
	if s.health == "" {
		return nil
	}
	r := reporter{send: sender(s.socket), log: logLine, atReady: s.atReady}
	if r.isReady, err = open(s.ready); err != nil {
		return fmt.Errorf("READY_URL %q: %w", s.ready, err)
	}
	if r.isWell, err = open(s.health); err != nil {
		return fmt.Errorf("HEALTH_URL %q: %w", s.health, err)
	}
	go r.run(context.Background(), s.watchdog/reportsPerWatchdog)
	return nil
}

// atReady collects garbage late while the program starts (the processor is scarce) and early afterwards (memory
// is), and gives back at once what the start left.
func (s settings) atReady() {
	if s.gogcReady > 0 {
		debug.SetGCPercent(s.gogcReady)
		debug.FreeOSMemory()
	}
}

// sender sends datagrams to socket. It connects anew for each: they are rare, and the receiver may be remade.
func sender(socket string) func(string) error {
	if socket == "" {
		return func(string) error { return nil }
	}
	return func(state string) error {
		conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write([]byte(state))
		return err
	}
}

func logLine(line string) {
	fmt.Fprintln(os.Stderr, line)
}
