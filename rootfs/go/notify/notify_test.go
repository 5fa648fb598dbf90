package notify

import (
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"testing"
	"time"
)

// receiver is a service manager's socket.
func receiver(t *testing.T) (socket *net.UnixConn, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	return socket, path
}

func setenv(t *testing.T, variables map[string]string) {
	t.Helper()
	for _, name := range []string{
		"NOTIFY_SOCKET", "WATCHDOG_USEC", "HEALTH_URL", "READY_URL", "GOGC_READY", "GOMEMLIMIT_SHARE", "WAIT_FOR",
		"WAIT_FOR_AT_MOST_S",
	} {
		t.Setenv(name, variables[name])
	}
}

func TestStartTakesTheVariablesAndReports(t *testing.T) {
	socket, path := receiver(t)
	setenv(t, map[string]string{
		"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "60000000", "HEALTH_URL": "alive", "GOGC_READY": "33",
		"GOMEMLIMIT_SHARE": "50",
	})
	before, limit := debug.SetGCPercent(100), debug.SetMemoryLimit(-1)
	defer debug.SetGCPercent(before)
	defer debug.SetMemoryLimit(limit)
	var opened []string
	open := func(address string) (Check, error) { opened = append(opened, address); return answers(nil), nil }
	if err := Start(open, "unused"); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(opened, []string{"alive", "alive"}) {
		t.Errorf("opened %v", opened)
	}
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "HEALTH_URL", "GOGC_READY", "GOMEMLIMIT_SHARE"} {
		if value, set := os.LookupEnv(name); set {
			t.Errorf("%s is still %q", name, value)
		}
	}
	if err := socket.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"READY=1", "WATCHDOG=1"} {
		got := make([]byte, 64)
		n, err := socket.Read(got)
		if err != nil || string(got[:n]) != want {
			t.Errorf("received %q, %v, expected %q", got[:n], err, want)
		}
	}
	if gogc := debug.SetGCPercent(33); gogc != 33 {
		t.Errorf("GOGC is %d when ready, expected 33", gogc)
	}
}

func TestStartLeavesUpstreamAloneWithoutAHealthURL(t *testing.T) {
	setenv(t, map[string]string{"NOTIFY_SOCKET": "/run/notify"})
	if err := Start(nil, ""); err != nil || os.Getenv("NOTIFY_SOCKET") == "" {
		t.Errorf("error %v, NOTIFY_SOCKET=%q", err, os.Getenv("NOTIFY_SOCKET"))
	}
}

func TestTheProgramsOwnHealthAddressIsUsedWhenNoneIsSet(t *testing.T) {
	setenv(t, nil)
	if s, err := take("own"); err != nil || s.health != "own" || s.ready != "own" {
		t.Errorf("%+v, %v", s, err)
	}
	setenv(t, map[string]string{"HEALTH_URL": "set", "READY_URL": "other"})
	if s, err := take("own"); err != nil || s.health != "set" || s.ready != "other" {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestASettingThatIsNoneIsRefused(t *testing.T) {
	for _, row := range [][2]string{
		{"WATCHDOG_USEC", "0"}, {"WATCHDOG_USEC", "-5"}, {"WATCHDOG_USEC", "30s"}, {"WATCHDOG_USEC", "3600000001"},
		{"WATCHDOG_USEC", "99999999999999999999"}, {"WAIT_FOR_AT_MOST_S", "3601"}, {"WAIT_FOR_AT_MOST_S", "1.5"},
		{"GOGC_READY", "0"}, {"GOGC_READY", "off"}, {"GOMEMLIMIT_SHARE", "0"}, {"GOMEMLIMIT_SHARE", "101"},
		{"GOMEMLIMIT_SHARE", "half"}, {"WAIT_FOR", "/run/x"}, {"WAIT_FOR", "grpc:run/x"},
		{"WAIT_FOR", "https:10.0.0.1:6443/readyz"},
	} {
		setenv(t, map[string]string{row[0]: row[1]})
		if err := Start(HTTP, "http://127.0.0.1:1/"); err == nil {
			t.Errorf("%s=%q was taken", row[0], row[1])
		}
	}
	setenv(t, map[string]string{"GOGC_READY": "50"})
	if err := Start(HTTP, ""); err == nil {
		t.Error("GOGC_READY was taken with nothing to tell when that is")
	}
}
