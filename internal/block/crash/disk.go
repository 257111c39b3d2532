package crash

import (
	"cmp"
	"iter"
	"math"
	"slices"

	"cowl/internal/block"
	"cowl/internal/block/mem"
)

// Disk is a disk with a volatile write cache; see the package's comment for
// what survives a power cut. Close does nothing: a disk outlives its users.
type Disk struct {
	world *World
	name  string

	// All below is guarded by world.mu.

	durable *mem.Device // what has been flushed

	// unsynced holds, by sector number, the versions written since, oldest
	// first, at least one. The last is what the sector reads as.
	unsynced map[int64][]version
}

// version is what one write made of one sector.
type version struct {
	data []byte // never changed; as long as the sector
	by   *write
}

// write is one operation on the way to the disk.
type write struct {
	op       int64
	returned int64 // the world's clock when the call returned, or inFlight
}

const inFlight = math.MaxInt64

// zeroSector is the data of versions made by WriteZeroes and Discard.
var zeroSector [block.SectorSize]byte

// World returns the world that the disk is in.
func (d *Disk) World() *World { return d.world }

// Name returns the name that the disk was made with.
func (d *Disk) Name() string { return d.name }

// ReadAt implements block.Device.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) {
	if err := block.CheckRange(off, int64(len(p)), d.Size()); err != nil {
		return 0, err
	}
	d.world.mu.Lock()
	defer d.world.mu.Unlock()
	if err := d.world.checkUp(); err != nil {
		return 0, err
	}
	return len(p), d.read(p, off)
}

// read reads what is durable and lays over it what is not.
func (d *Disk) read(p []byte, off int64) error {
	if _, err := d.durable.ReadAt(p, off); err != nil || len(d.unsynced) == 0 {
		return err
	}
	end := off + int64(len(p))
	for s := off / block.SectorSize; s*block.SectorSize < end; s++ {
		if vs := d.unsynced[s]; vs != nil {
			at := s * block.SectorSize
			from, to := max(off, at), min(end, at+block.SectorSize)
			copy(p[from-off:to-off], vs[len(vs)-1].data[from-at:])
		}
	}
	return nil
}

// WriteAt implements block.Device.
func (d *Disk) WriteAt(p []byte, off int64) (int, error) {
	if err := d.change("write", p, off, int64(len(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// WriteZeroes implements block.Device.
func (d *Disk) WriteZeroes(off, length int64) error {
	return d.change("zero", nil, off, length)
}

// Discard implements block.Device.
func (d *Disk) Discard(off, length int64) error {
	return d.change("discard", nil, off, length)
}

// change is the life of a write: it reaches the cache, and some time later its
// call returns. Only then does a flush cover it.
func (d *Disk) change(kind string, p []byte, off, length int64) error {
	if err := block.CheckRange(off, length, d.Size()); err != nil || length == 0 {
		return err
	}
	by, err := d.submit(kind, p, off, length)
	if by != nil {
		d.complete(by)
		d.world.tell(by.op)
	}
	return err
}

// submit counts the operation and puts what the fault model says into the
// cache. The write is nil if nothing happened.
func (d *Disk) submit(kind string, p []byte, off, length int64) (*write, error) {
	d.world.mu.Lock()
	defer d.world.mu.Unlock()
	n, failure := d.world.begin(kind, d, off, length)
	if n == 0 {
		return nil, failure
	}
	half := failure != nil && !d.world.down // an injected error
	reaches := func(sector int64) bool {
		even := sector%2 == 0
		return !(half && even) && !(kind == "discard" && !even)
	}
	by := &write{op: n, returned: inFlight}
	var err error
	if p != nil {
		err = d.cache(by, p, off, reaches)
	} else {
		err = d.cacheZeroes(by, off, length, kind == "zero", reaches)
	}
	return by, cmp.Or(failure, err)
}

func (d *Disk) complete(by *write) {
	d.world.mu.Lock()
	defer d.world.mu.Unlock()
	by.returned = d.world.clock
	d.world.clock++
}

// cache adds a version of every sector that p at off touches and reaches.
func (d *Disk) cache(by *write, p []byte, off int64, reaches func(int64) bool) error {
	const size = block.SectorSize
	end := off + int64(len(p))
	from := off - off%size
	to := min((end+size-1)/size*size, d.Size())
	whole := make([]byte, to-from)
	if from < off || end < to { // sectors that keep a part of what they hold
		if err := d.read(whole, from); err != nil {
			return err
		}
	}
	copy(whole[off-from:], p)
	for at := from; at < to; at += size {
		if reaches(at / size) {
			d.add(at/size, version{whole[at-from : min(at+size, to)-from], by})
		}
	}
	return nil
}

// cacheZeroes adds versions of zeroes, of sectors that are covered in part only
// if partial. It passes over what is zero in every version already, so that
// large ranges of nothing cost nothing.
func (d *Disk) cacheZeroes(by *write, off, length int64, partial bool, reaches func(int64) bool) error {
	for _, s := range d.written(off, length) {
		at := s * block.SectorSize
		size := min(block.SectorSize, d.Size()-at)
		from, to := max(off, at), min(off+length, at+size)
		whole := to-from == size
		if !reaches(s) || !whole && !partial {
			continue
		}
		data := zeroSector[:size]
		if !whole {
			data = make([]byte, size)
			if err := d.read(data, at); err != nil {
				return err
			}
			clear(data[from-at : to-at])
		}
		d.add(s, version{data, by})
	}
	return nil
}

func (d *Disk) add(sector int64, v version) {
	d.unsynced[sector] = append(d.unsynced[sector], v)
}

// written returns the sectors, sorted, that touch the range and may hold
// anything but zeroes, durably or in the cache.
func (d *Disk) written(off, length int64) []int64 {
	var found []int64
	for e, err := range d.durable.Extents(off, length) {
		if err == nil && e.Kind == block.Data {
			for s := e.Off / block.SectorSize; s*block.SectorSize < e.End(); s++ {
				found = append(found, s)
			}
		}
	}
	found = append(found, d.unsyncedIn(off, length)...)
	slices.Sort(found)
	return slices.Compact(found)
}

// unsyncedIn returns the sectors, sorted, that touch the range and are unsynced.
func (d *Disk) unsyncedIn(off, length int64) []int64 {
	var found []int64
	for s := range d.unsynced {
		if at := s * block.SectorSize; at < off+length && at+block.SectorSize > off {
			found = append(found, s)
		}
	}
	slices.Sort(found)
	return found
}

// Flush implements block.Device.
func (d *Disk) Flush() error {
	d.world.mu.Lock()
	before := d.world.clock
	d.world.mu.Unlock()
	n, err := d.flush(before)
	d.world.tell(n)
	return err
}

// flush makes durable what had returned when the clock stood at before. It
// returns the number of the operation.
func (d *Disk) flush(before int64) (int64, error) {
	d.world.mu.Lock()
	defer d.world.mu.Unlock()
	n, err := d.world.begin("flush", d, 0, 0)
	if err != nil {
		return n, err
	}
	clear(d.world.yielded)
	for s, vs := range d.unsynced {
		covered := len(vs)
		for covered > 0 && vs[covered-1].by.returned >= before {
			covered--
		}
		if covered == 0 {
			continue
		}
		// The older ones are overwritten, also those still in flight.
		if _, err := d.durable.WriteAt(vs[covered-1].data, s*block.SectorSize); err != nil {
			return n, err
		}
		if covered == len(vs) {
			delete(d.unsynced, s)
		} else {
			d.unsynced[s] = vs[covered:]
		}
	}
	return n, nil
}

// Extents implements block.Device. What is in the cache counts as data.
func (d *Disk) Extents(off, length int64) iter.Seq2[block.Extent, error] {
	if err := block.CheckRange(off, length, d.Size()); err != nil {
		return block.NoExtents(err)
	}
	return func(yield func(block.Extent, error) bool) {
		es, err := d.extents(off, length)
		if err != nil {
			yield(block.Extent{}, err)
			return
		}
		for _, e := range es {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (d *Disk) extents(off, length int64) ([]block.Extent, error) {
	d.world.mu.Lock()
	defer d.world.mu.Unlock()
	if err := d.world.checkUp(); err != nil {
		return nil, err
	}
	var es []block.Extent
	add := func(from, to int64, kind block.ExtentKind) {
		if from < to {
			es = append(es, block.Extent{Off: from, Len: to - from, Kind: kind})
		}
	}
	for e, err := range d.durable.Extents(off, length) {
		if err != nil {
			return nil, err
		}
		if e.Kind == block.Data {
			es = append(es, e)
			continue
		}
		at := e.Off
		for _, s := range d.unsyncedIn(e.Off, e.Len) {
			from := max(s*block.SectorSize, e.Off)
			add(at, from, e.Kind)
			at = min((s+1)*block.SectorSize, e.End())
			add(from, at, block.Data)
		}
		add(at, e.End(), e.Kind)
	}
	return es, nil
}

// Size implements block.Device.
func (d *Disk) Size() int64 { return d.durable.Size() }

// Caps implements block.Device.
func (d *Disk) Caps() block.Caps {
	return block.Caps{Discard: true, Zeroes: true, BlockSize: block.SectorSize}
}

// Close implements block.Device; see Disk.
func (d *Disk) Close() error { return nil }
