package metastore

import (
	"strings"
	"sync"
	"testing"

	"cowl/internal/block/mem"
	"cowl/internal/format/checksum"
)

func sum(b []byte) uint32 { return checksum.LVM(b) }

// hooked runs a function once, before the first read of a range.
type hooked struct {
	*mem.Device
	off, end int64
	hook     func()
}

func (h *hooked) ReadAt(p []byte, off int64) (int, error) {
	if h.hook != nil && off >= h.off && off < h.end {
		hook := h.hook
		h.hook = nil
		hook()
	}
	return h.Device.ReadAt(p, off)
}

// Between a reader's look at the header and at the text, another process
// commits so often that the text is overwritten.
func TestReadIsRetriedWhenTheHeaderMoved(t *testing.T) {
	g := newIDs()
	dev := mem.New(16 * mib)
	s := founded(t, g, "vg", create(t, g, PVOptions{MetadataSize: minMDASize, DataAlignment: 4096}, dev)...)
	overwritten := false
	h := &hooked{Device: dev, off: firstMDA + 512, end: firstMDA + minMDASize}
	h.hook = func() {
		for range 60 { // about as many as fill the buffer
			mustChange(t, s, s.Group())
		}
		overwritten = true
	}
	f := assembled(t, h)
	if !overwritten {
		t.Fatal("nothing was committed in between")
	}
	if len(f.Problems) > 0 || f.Group.Seqno != s.Group().Seqno {
		t.Errorf("seqno %d (now %d), problems %q", f.Group.Seqno, s.Group().Seqno, f.Problems)
	}
}

// While one process commits without pause, others that read without a lock
// always see a whole group, whose sequence number never falls.
func TestReadDuringCommits(t *testing.T) {
	g := newIDs()
	dev := mem.New(512 * mib)
	small := PVOptions{MetadataSize: minMDASize, DataAlignment: 4096, MetadataCopies: ptr(2)}
	s := founded(t, g, "vg", create(t, g, small, dev)...)
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			last := uint64(0)
			for {
				select {
				case <-stop:
					return
				default:
				}
				pv, err := ReadPV(Source{Path: "dev", Dev: dev})
				if err != nil {
					t.Error(err)
					return
				}
				inv := Assemble([]*PV{pv})
				if len(inv.Groups) != 1 {
					t.Errorf("no group; problems: %q", inv.Problems)
					return
				}
				f := inv.Groups[0]
				if f.Group.Seqno < last {
					t.Errorf("seqno %d after %d", f.Group.Seqno, last)
					return
				}
				last = f.Group.Seqno
				for _, p := range f.Problems {
					if !strings.Contains(p, "ignoring metadata seqno") && !strings.Contains(p, "changes all the time") {
						t.Errorf("seqno %d: %s", last, p)
						return
					}
				}
			}
		})
	}
	for i := range long(300) {
		vg := s.Group()
		vg.Tags = []string{strings.Repeat("t", 100+i*37%4000)}
		mustChange(t, s, vg)
	}
	close(stop)
	readers.Wait()
}
