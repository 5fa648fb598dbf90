package notify

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var errSick = errors.New("sick")

// answers is a check that gives each error once and repeats the last.
func answers(errs ...error) Check {
	return func(context.Context) error {
		err := errs[0]
		if len(errs) > 1 {
			errs = errs[1:]
		}
		return err
	}
}

// hangs is a check that only its deadline ends.
func hangs(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// told runs a reporter for a time that is no real time, and returns what it sent and logged.
func told(t *testing.T, ready, well Check, period, length time.Duration) (sent, logged []string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), length)
		defer cancel()
		r := reporter{
			isReady: ready,
			isWell:  well,
			send:    func(state string) error { sent = append(sent, state); return nil },
			log:     func(line string) { logged = append(logged, line) },
			atReady: func() { sent = append(sent, "at ready") },
		}
		r.run(ctx, period)
	})
	return sent, logged
}

func reports(sent []string) int {
	n := 0
	for _, state := range sent {
		if state == "WATCHDOG=1" {
			n++
		}
	}
	return n
}

func TestReadyIsSentOnceAfterTheFirstGoodAnswer(t *testing.T) {
	sent, _ := told(t, answers(errSick, errSick, nil), answers(nil), 0, time.Minute)
	if !slices.Equal(sent, []string{"READY=1", "at ready"}) {
		t.Errorf("sent %v", sent)
	}
}

func TestNothingIsSentBeforeTheProgramIsReady(t *testing.T) {
	sent, _ := told(t, answers(errSick), answers(nil), time.Second, time.Minute)
	if len(sent) != 0 {
		t.Errorf("sent %v", sent)
	}
}

func TestEveryPeriodInWhichTheProgramIsWellIsReported(t *testing.T) {
	sent, logged := told(t, answers(nil), answers(nil), 10*time.Second, 59*time.Second)
	if sent[0] != "READY=1" || reports(sent) != 6 || len(logged) != 0 {
		t.Errorf("sent %v, logged %v", sent, logged)
	}
}

func TestAHangingCheckEndsTheReportsAndIsLoggedOnce(t *testing.T) {
	sent, logged := told(t, answers(nil), hangs, 10*time.Second, time.Minute)
	if reports(sent) != 0 {
		t.Errorf("sent %v", sent)
	}
	if len(logged) != 1 || !strings.Contains(logged[0], "deadline exceeded") {
		t.Errorf("logged %v", logged)
	}
}

func TestReportsGoOnWhenTheProgramIsWellAgain(t *testing.T) {
	sent, logged := told(t, answers(nil), answers(nil, errSick, errSick, nil), 10*time.Second, 59*time.Second)
	if reports(sent) != 4 {
		t.Errorf("sent %v", sent)
	}
	if len(logged) != 2 || logged[1] != "notify: health=well" {
		t.Errorf("logged %v", logged)
	}
}

func TestACheckThatWaitedLongIsSoonMadeAgain(t *testing.T) {
	late := func(context.Context) error { time.Sleep(checkDeadline / 2); return errSick }
	for name, first := range map[string]Check{"no answer": hangs, "a late one": late} {
		asked := 0
		ready := func(ctx context.Context) error {
			if asked++; asked == 1 {
				return first(ctx)
			}
			return nil
		}
		sent, _ := told(t, ready, answers(nil), 0, checkDeadline+2*pollLongest)
		if !slices.Equal(sent, []string{"READY=1", "at ready"}) {
			t.Errorf("%s: sent %v", name, sent)
		}
	}
}

func TestAStartingProgramIsNotAskedMoreThanAFifthOfTheTime(t *testing.T) {
	asked := 0
	slow := func(context.Context) error { asked++; time.Sleep(pollPeriod); return errSick }
	told(t, slow, answers(nil), 0, 50*time.Second)
	if asked > 101 {
		t.Errorf("asked %d times in 50 s at 0.1 s each", asked)
	}
}

func TestReadyIsSentAgainWhenTheManagerDidNotTakeIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		r := reporter{isReady: answers(nil), log: func(string) {}, atReady: func() {}, send: func(string) error {
			if tries++; tries < 3 {
				return errSick
			}
			return nil
		}}
		r.run(t.Context(), 0)
		if tries != 3 {
			t.Errorf("tried %d times", tries)
		}
	})
}
