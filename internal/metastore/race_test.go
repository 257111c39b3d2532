package metastore

import (
	"strings"
	"sync"
	"testing"

	"cowl/internal/block/mem"
	"cowl/internal/format/checksum"
)

func sum(b []byte) uint32 { return checksum.LVM(b) }

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
