package snap

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// A merge that is to leave the disk to others must do so over every second, not
// only on the whole: what it could have copied while it was slow is lost to it.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Pace
		took := func(copied int64) time.Duration {
			began := time.Now()
			if err := p.Wait(t.Context(), copied); err != nil {
				t.Error(err)
			}
			return time.Since(began)
		}
		if d := took(1 << 40); d != 0 || p.Step() != mergeBytes {
			t.Errorf("unbounded: waits %v, steps of %d", d, p.Step())
		}
		p.Set(1 << 20)
		if step := p.Step(); step != 256<<10 {
			t.Errorf("steps of %d bytes at 1 MiB a second", step)
		}
		if d := took(1 << 20); d != time.Second {
			t.Errorf("1 MiB at 1 MiB a second took %v", d)
		}
		time.Sleep(time.Hour)
		if d := took(512 << 10); d != 500*time.Millisecond {
			t.Errorf("512 KiB after a slow step took %v", d)
		}
		time.Sleep(100 * time.Millisecond) // the step itself
		if d := took(256 << 10); d != 250*time.Millisecond {
			t.Errorf("256 KiB took %v", d)
		}
		p.Set(1)
		if p.Step() != 1 {
			t.Errorf("steps of %d bytes at a byte a second", p.Step())
		}
		go func() {
			time.Sleep(time.Second)
			p.Set(2 << 20)
		}()
		if d := took(1 << 20); d != time.Second {
			t.Errorf("a new rate let it go on after %v", d)
		}
		if d := took(1 << 20); d != 500*time.Millisecond {
			t.Errorf("1 MiB at 2 MiB a second took %v", d)
		}
		p.Set(1 << 60)
		if p.Step() != mergeBytes {
			t.Errorf("steps of %d bytes at a great rate", p.Step())
		}
		p.Set(1)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			time.Sleep(time.Second)
			cancel()
		}()
		if err := p.Wait(ctx, 1<<62); err != context.Canceled {
			t.Errorf("when it is cancelled: %v", err)
		}
		p.Set(0)
		if d := took(1 << 20); d != 0 {
			t.Errorf("unbounded again: waits %v", d)
		}
	})
}
