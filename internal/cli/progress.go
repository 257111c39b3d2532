package cli

import (
	"bytes"
	"fmt"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"cowl/internal/backup"
	"cowl/internal/manager"
)

// phaseNames are what bars are called, all of one width.
var phaseNames = map[backup.Phase]string{
	backup.Reading:   "read   ",
	backup.Verifying: "verify ",
	backup.Writing:   "write  ",
	backup.Checking:  "compare",
}

// progress shows on a terminal how far long work is: one bar for the phase at
// hand, which disappears when the phase is over. Elsewhere it shows nothing,
// and passes on what there is to say.
type progress struct {
	app  *app
	bars *mpb.Progress // nil where nobody watches

	mu    sync.Mutex
	phase backup.Phase
	bar   *mpb.Bar
	title string // of several volumes, which one it is
}

// newProgress begins; end has to follow, before the verb says anything itself.
func (a *app) newProgress() *progress {
	p := &progress{app: a}
	if a.Progress && a.quiet == 0 {
		p.bars = mpb.New(mpb.WithOutput(a.Stderr), mpb.WithWidth(40))
	}
	return p
}

// reporter is how package backup reaches the bars.
func (p *progress) reporter() backup.Reporter {
	r := backup.Reporter{Note: p.note, Begin: p.begin}
	if p.bars != nil {
		r.Progress = p.update
	}
	return r
}

// absolute is how work that reports a phase by itself reaches the bars, nil
// where nobody watches.
func (p *progress) absolute(phase backup.Phase) func(done, total int64) {
	if p.bars == nil {
		return nil
	}
	return func(done, total int64) { p.update(phase, done, total) }
}

// begin says which of several volumes is next.
func (p *progress) begin(volume string, n, of int) {
	if p.bars == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endBar()
	p.phase, p.title = "", ""
	if of > 1 {
		p.title = fmt.Sprintf("%d/%d %s: ", n+1, of, volume)
	}
}

func (p *progress) update(phase backup.Phase, done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if phase != p.phase {
		p.endBar()
		p.phase, p.bar = phase, p.newBar(p.title+phaseNames[phase], total)
	}
	p.bar.SetCurrent(done)
}

func (p *progress) newBar(name string, total int64) *mpb.Bar {
	if total == 0 { // nobody knows: an archive is as long as it gets
		return p.bars.AddSpinner(0,
			mpb.PrependDecorators(decor.Name(indent+name+" ")),
			mpb.AppendDecorators(decor.CurrentKibiByte("% .1f"), decor.AverageSpeed(decor.SizeB1024(0), "  % .0f")),
			mpb.BarRemoveOnComplete())
	}
	return p.bars.AddBar(total,
		mpb.PrependDecorators(decor.Name(indent+name+" "), decor.Percentage(decor.WC{W: 5})),
		mpb.AppendDecorators(decor.CountersKibiByte("% .1f / % .1f"), decor.AverageSpeed(decor.SizeB1024(0), "  % .0f"),
			decor.OnComplete(decor.AverageETA(decor.ET_STYLE_GO, decor.WC{W: 6}), "")),
		mpb.BarRemoveOnComplete())
}

// endBar takes the bar of the last phase away.
func (p *progress) endBar() {
	if p.bar != nil {
		p.bar.Abort(true)
		p.bar.Wait()
		p.bar = nil
	}
}

// note is a warning in between. It goes above the bar.
func (p *progress) note(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bars == nil || p.bar == nil {
		p.app.warn("%s", text)
		return
	}
	var b bytes.Buffer
	writeLines(&b, "WARNING: "+text)
	if _, err := p.bars.Write(b.Bytes()); err != nil {
		p.app.warn("%s", text)
		return
	}
	p.app.warnings.add(text)
}

// end takes away what is shown.
func (p *progress) end() {
	if p.bars == nil {
		return
	}
	p.mu.Lock()
	p.endBar()
	p.mu.Unlock()
	p.bars.Wait()
}

// timeBar shows how much of a time is over.
type timeBar struct {
	bars *mpb.Progress // nil where nobody watches
	bar  *mpb.Bar
}

// newTimeBar begins; end has to follow.
func (a *app) newTimeBar(name string, length time.Duration) *timeBar {
	if !a.Progress || a.quiet > 0 {
		return &timeBar{}
	}
	bars := mpb.New(mpb.WithOutput(a.Stderr), mpb.WithWidth(40))
	left := func(s decor.Statistics) string {
		return "  " + manager.DurationText(time.Duration(s.Total-s.Current)) + " left"
	}
	return &timeBar{bars, bars.AddBar(int64(length),
		mpb.PrependDecorators(decor.Name(indent+name+" "), decor.Percentage(decor.WC{W: 5})),
		mpb.AppendDecorators(decor.Any(left)), mpb.BarRemoveOnComplete())}
}

func (b *timeBar) set(gone time.Duration) {
	if b.bar != nil {
		b.bar.SetCurrent(int64(gone))
	}
}

// end takes the bar away.
func (b *timeBar) end() {
	if b.bar != nil {
		b.bar.Abort(true)
		b.bars.Wait()
	}
}
