package notify

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestWaitingEndsWhenAllIsThere(t *testing.T) {
	folder := t.TempDir()
	socket, file := filepath.Join(folder, "socket"), filepath.Join(folder, "file")
	url := serve(t, true, status(200, "ok"))
	s := settings{
		waitFor: []string{"grpc:" + socket, "file:" + file, strings.Replace(url, "://", ":", 1), url},
		atMost:  time.Minute,
	}
	made := make(chan error, 1)
	go func() {
		listener, err := net.Listen("unix", socket)
		if err == nil {
			t.Cleanup(func() { listener.Close() })
			go answerEach(listener, "\x00\x00\x00\x04\x00\x00\x00\x00\x00")
			time.Sleep(pollPeriod)
			err = os.WriteFile(file, nil, 0o644)
		}
		made <- err
	}()
	var logged []string
	if err := s.wait(t.Context(), func(line string) { logged = append(logged, line) }); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-made:
		if err != nil {
			t.Fatal(err)
		}
	default:
		t.Error("it did not wait for the file")
	}
	if len(logged) != 4 {
		t.Errorf("logged %v", logged)
	}
}

func TestASocketThatOnlyAcceptsIsNoServer(t *testing.T) {
	for _, answer := range []string{"", "HTTP/1.1 400 Bad Request\r\n"} {
		socket := filepath.Join(t.TempDir(), "socket")
		listener, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { listener.Close() })
		go answerEach(listener, answer)
		if within(t.Context(), pollPeriod, serves(socket)) == nil {
			t.Errorf("%q is an answer", answer)
		}
	}
}

// answerEach says answer to all that connect, and keeps them.
func answerEach(listener net.Listener, answer string) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		conn.Write([]byte(answer))
		defer conn.Close()
	}
}

func TestAnAnswerIsWaitedForABoundedTime(t *testing.T) {
	s := settings{waitFor: []string{serve(t, false, status(503, ""))}, atMost: 3 * pollPeriod}
	var logged []string
	if err := s.wait(t.Context(), func(line string) { logged = append(logged, line) }); err != nil {
		t.Fatal(err)
	}
	if len(logged) != 1 || !strings.HasSuffix(logged[0], "result=gone_on_without") {
		t.Errorf("logged %v", logged)
	}
}

func TestWhatTheDaemonNeedsIsWaitedForWithoutABound(t *testing.T) {
	s := settings{waitFor: []string{"grpc:/does/not/exist"}, atMost: pollPeriod}
	ctx, cancel := context.WithTimeout(t.Context(), 5*pollPeriod)
	defer cancel()
	if s.wait(ctx, func(string) {}) == nil {
		t.Error("it went on without")
	}
}

func TestNothingToWaitForIsNoWait(t *testing.T) {
	if err := (settings{}).wait(t.Context(), func(string) {}); err != nil {
		t.Error(err)
	}
}
