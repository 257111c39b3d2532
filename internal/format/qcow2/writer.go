package qcow2

import (
	"encoding/binary"
	"io"

	"cowl/internal/errs"
)

// What images are made of.
const (
	clusterBits = 16
	// ClusterBytes is the size of a cluster.
	ClusterBytes = 1 << clusterBits
	sectorBytes  = 512

	// l2Entries is how many clusters a second-level table maps.
	l2Entries = ClusterBytes / 8
	// maxL1 is the longest first-level table that qemu reads, in entries.
	maxL1 = 32 << 20 / 8

	headerBytes = 112
	version     = 3
	magic       = "QFI\xfb"
)

// Flags of entries, and where the length of a compressed cluster stands in one.
const (
	copied     = 1 << 63 // of tables and plain clusters that are referred to once
	compressed = 1 << 62
	lengthBit  = 62 - (clusterBits - 8)
)

// packBytes is how much of compressed clusters waits for a place. Between these and
// a plain cluster the file is padded up to a cluster: once for so many bytes.
const packBytes = 4 << 20

// Writer lays out one image. It is not for several goroutines at once. After an
// error it stays where it is, and returns the error again.
type Writer struct {
	out  io.Writer
	pos  int64 // in the file, where the next byte comes
	size int64 // of the volume
	how  Compression
	err  error

	l1     []uint64
	l2     []uint64 // the table that is being filled
	next   int64    // the lowest cluster that may come
	filled bool     // l2 has entries

	packed []byte
	wait   []packedCluster // those in packed

	counts counts
}

// packedCluster is a compressed cluster without a place.
type packedCluster struct {
	no     int64
	length int
}

// NewWriter begins the image of a volume of size bytes, a multiple of 512. The
// first byte that out gets belongs at ClusterBytes of the file.
func NewWriter(out io.Writer, size int64, how Compression) (*Writer, error) {
	if size <= 0 || size%sectorBytes != 0 {
		return nil, errs.E(errs.Unsupported, "qcow2: an image of %d bytes: there are only multiples of %d", size, sectorBytes)
	}
	tables := (size-1)/(ClusterBytes*l2Entries) + 1
	if tables > maxL1 {
		return nil, errs.E(errs.Unsupported, "qcow2: an image of %d bytes: %d is the most", size, int64(maxL1)*l2Entries*ClusterBytes)
	}
	w := &Writer{
		out: out, pos: ClusterBytes, size: size, how: how,
		l1: make([]uint64, tables), l2: make([]uint64, l2Entries),
	}
	w.counts.add(0, ClusterBytes)
	return w, nil
}

// Put adds a cluster of the volume, by number, in ascending order; those that
// are left out read as zeroes. data is ClusterBytes long, of the last one up to the
// volume's end; or, if packed, what Encoder.Encode made of it.
func (w *Writer) Put(no int64, data []byte, packed bool) error {
	if w.err != nil {
		return w.err
	}
	start := no * ClusterBytes
	if no < w.next || start >= w.size || !packed && int64(len(data)) != min(ClusterBytes, w.size-start) || packed && len(data) >= ClusterBytes {
		panic("qcow2: Put out of order, or of a wrong length")
	}
	if w.next > 0 && no/l2Entries != (w.next-1)/l2Entries {
		w.endTable()
	}
	w.next = no + 1
	w.filled = true
	if packed {
		w.packed = append(w.packed, data...)
		w.wait = append(w.wait, packedCluster{no, len(data)})
		if len(w.packed) >= packBytes {
			w.place()
		}
	} else {
		at := w.align()
		w.write(data)
		w.counts.add(at, w.align())
		w.l2[no%l2Entries] = uint64(at) | copied
	}
	w.flushCounts()
	return w.err
}

// Finish writes what is left of the tables, and returns the first cluster.
func (w *Writer) Finish() ([]byte, error) {
	w.endTable()
	l1 := w.table(w.l1)
	counts, clusters := w.writeCounts()
	if w.err != nil {
		return nil, w.err
	}
	return w.header(l1, counts, clusters), nil
}

// header is the first cluster. It has no extensions: the zeroes behind it are
// the mark of their end.
func (w *Writer) header(l1, counts, countClusters int64) []byte {
	b := make([]byte, ClusterBytes)
	be := binary.BigEndian
	copy(b, magic)
	be.PutUint32(b[4:], version)
	be.PutUint32(b[20:], clusterBits)
	be.PutUint64(b[24:], uint64(w.size))
	be.PutUint32(b[36:], uint32(len(w.l1)))
	be.PutUint64(b[40:], uint64(l1))
	be.PutUint64(b[48:], uint64(counts))
	be.PutUint32(b[56:], uint32(countClusters))
	be.PutUint32(b[96:], countOrder)
	be.PutUint32(b[100:], headerBytes)
	if w.how == Zstd {
		be.PutUint64(b[72:], 1<<compressionBit)
		b[104] = zstdType
	}
	return b
}

// endTable writes the second-level table, if there is anything in it.
func (w *Writer) endTable() {
	w.place()
	if !w.filled {
		return
	}
	w.l1[(w.next-1)/l2Entries] = uint64(w.table(w.l2)) | copied
	clear(w.l2)
	w.filled = false
}

// place writes the compressed clusters that wait, and enters them.
func (w *Writer) place() {
	at := w.pos
	w.write(w.packed)
	for _, p := range w.wait {
		// What a reader reads of it are whole sectors, none of which it has to
		// itself.
		sectors := (at%sectorBytes + int64(p.length) + sectorBytes - 1) / sectorBytes
		w.l2[p.no%l2Entries] = uint64(at) | uint64(sectors-1)<<lengthBit | compressed
		w.counts.add(at, at+int64(p.length))
		at += int64(p.length)
	}
	w.packed, w.wait = w.packed[:0], w.wait[:0]
}

// table writes entries on clusters of their own, counts them, and returns where.
func (w *Writer) table(entries []uint64) int64 {
	at := w.align()
	w.writeEntries(entries)
	w.counts.add(at, w.align())
	return at
}

func (w *Writer) writeEntries(entries []uint64) {
	b := make([]byte, 0, ClusterBytes)
	for len(entries) > 0 {
		n := min(len(entries), ClusterBytes/8)
		b = b[:0]
		for _, e := range entries[:n] {
			b = binary.BigEndian.AppendUint64(b, e)
		}
		w.write(b)
		entries = entries[n:]
	}
}

var padding [ClusterBytes]byte

// align pads the file up to a cluster, and returns where that is.
func (w *Writer) align() int64 {
	if over := w.pos % ClusterBytes; over > 0 {
		w.write(padding[over:])
	}
	return w.pos
}

func (w *Writer) write(b []byte) {
	if w.err != nil || len(b) == 0 {
		return
	}
	n, err := w.out.Write(b)
	w.pos += int64(n)
	w.err = err
}
