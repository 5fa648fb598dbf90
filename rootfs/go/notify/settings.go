package notify

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// settings is what the service file says through the environment.
type settings struct {
	socket    string        // NOTIFY_SOCKET: where reports go
	watchdog  time.Duration // WATCHDOG_USEC: how long without a report counts as hung; 0 is never
	health    string        // HEALTH_URL: answers 200 while the program is well
	ready     string        // READY_URL: answers 200 when the program is ready; HEALTH_URL when not set
	gogcReady int           // GOGC_READY: GOGC from when the program is ready; 0 is as before
	share     int64         // GOMEMLIMIT_SHARE: percent of the machine's memory that bounds GOMEMLIMIT; 0 is no bound
	waitFor   []string      // WAIT_FOR: see wait
	atMost    time.Duration // WAIT_FOR_AT_MOST_S: see wait
}

// longest bounds the watchdog time and the wait: what is longer is a slip in a service file.
const longest = time.Hour

// take reads the settings and removes them from the environment. health is used where HEALTH_URL is not set.
func take(health string) (s settings, err error) {
	s = settings{
		socket:  os.Getenv("NOTIFY_SOCKET"),
		health:  or(os.Getenv("HEALTH_URL"), health),
		waitFor: strings.Fields(os.Getenv("WAIT_FOR")),
	}
	s.ready = or(os.Getenv("READY_URL"), s.health)
	if s.watchdog, err = duration("WATCHDOG_USEC", time.Microsecond); err != nil {
		return s, err
	}
	if s.atMost, err = duration("WAIT_FOR_AT_MOST_S", time.Second); err != nil {
		return s, err
	}
	if gogc := os.Getenv("GOGC_READY"); gogc != "" {
		if s.gogcReady, err = strconv.Atoi(gogc); err != nil || s.gogcReady <= 0 {
			return s, fmt.Errorf("GOGC_READY %q: expected a percentage above 0, as in 50", gogc)
		}
		if s.ready == "" {
			return s, fmt.Errorf("GOGC_READY is set without HEALTH_URL or READY_URL, which tell when that is")
		}
	}
	if share := os.Getenv("GOMEMLIMIT_SHARE"); share != "" {
		if s.share, err = strconv.ParseInt(share, 10, 64); err != nil || s.share < 1 || s.share > 100 {
			return s, fmt.Errorf("GOMEMLIMIT_SHARE %q: expected a percentage from 1 to 100, as in 36", share)
		}
	}
	names := []string{"HEALTH_URL", "READY_URL", "GOGC_READY", "GOMEMLIMIT_SHARE", "WAIT_FOR", "WAIT_FOR_AT_MOST_S"}
	if s.health != "" {
		names = append(names, "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
	}
	for _, name := range names {
		if err := os.Unsetenv(name); err != nil {
			return s, err
		}
	}
	return s, nil
}

// duration is the variable called name, a whole number of units; not set is 0.
func duration(name string, unit time.Duration) (time.Duration, error) {
	text := os.Getenv(name)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n <= 0 || n > int64(longest/unit) {
		return 0, fmt.Errorf("%s %q: expected a whole number from 1 to %d", name, text, longest/unit)
	}
	return time.Duration(n) * unit, nil
}

func or(text, otherwise string) string {
	if text != "" {
		return text
	}
	return otherwise
}
