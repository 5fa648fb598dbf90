package notify

import (
	"context"
	"fmt"
	"time"
)

const (
	// pollPeriod is how often a program that is not ready yet is asked.
	pollPeriod = 100 * time.Millisecond
	// pollShare bounds what asking costs while starting: a check that took t is not repeated before pollShare*t.
	pollShare = 4
	// pollLongest bounds that in turn: a check that takes longer has mostly waited, which costs nothing. An API server
	// that starts slowly takes connections long before it answers them.
	pollLongest = time.Second
	// checkDeadline is how long one check may take where there is no watchdog time to derive it from.
	checkDeadline = 10 * time.Second
	// reportsPerWatchdog is how many reports fit in a watchdog time, so that one may be lost or late.
	reportsPerWatchdog = 3
)

// reporter tells the service manager what the program's own checks say.
type reporter struct {
	isReady, isWell Check
	send            func(state string) error
	log             func(line string)
	atReady         func()
	failing         bool
}

// run sends READY=1 when the program is ready, then WATCHDOG=1 in each period in which it is well.
func (r *reporter) run(ctx context.Context, period time.Duration) {
	ready := func(ctx context.Context) error {
		if err := r.isReady(ctx); err != nil {
			return err
		}
		return r.tell("READY=1")
	}
	if poll(ctx, ready) != nil {
		return
	}
	r.atReady()
	if period == 0 {
		return
	}
	for {
		next := time.Now().Add(period)
		err := within(ctx, period, r.isWell)
		r.logChange(err)
		if err == nil {
			_ = r.tell("WATCHDOG=1") // logged there; the next period brings the next one
		}
		if err := sleep(ctx, time.Until(next)); err != nil {
			return
		}
	}
}

func (r *reporter) tell(state string) error {
	err := r.send(state)
	if err != nil {
		r.log(fmt.Sprintf("notify: sent=%s error=%q", state, err))
	}
	return err
}

// logChange leaves the reason for which the service manager will act: one line as it begins, one as it ends.
func (r *reporter) logChange(err error) {
	switch {
	case err != nil && !r.failing:
		r.log(fmt.Sprintf("notify: health=failing error=%q", err))
	case err == nil && r.failing:
		r.log("notify: health=well")
	}
	r.failing = err != nil
}

// poll checks until it is nil, or until ctx ends, which is the error.
func poll(ctx context.Context, check Check) error {
	for {
		started := time.Now()
		if within(ctx, checkDeadline, check) == nil {
			return nil
		}
		pause := min(max(pollPeriod, pollShare*time.Since(started)), pollLongest)
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

func within(ctx context.Context, deadline time.Duration, check Check) error {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	return check(ctx)
}

func sleep(ctx context.Context, t time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(t):
		return nil
	}
}
