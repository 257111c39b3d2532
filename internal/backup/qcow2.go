package backup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"cowl/internal/block"
	"cowl/internal/block/file"
	reader "cowl/internal/block/qcow2"
	"cowl/internal/errs"
	"cowl/internal/format/qcow2"
)

// Of a qcow2 image there are two contents to vouch for: the file's bytes, for
// which sha256sum needs nothing of ours, and the volume's bytes in it. The first
// cluster of the file is known last (see package format/qcow2), so the file is
// hashed with zeroes in that place while it is written. When it is read back,
// that is what it is compared with, and its own hashes are made; then the volume
// is read through it, and compared with what was read from the snapshot.

// fillQcow2 writes the partial image, and returns the hashes of the volume.
func (j *job) fillQcow2(ctx context.Context, dev block.Device) error {
	bytes := &fileSink{w: j.out.f}
	stream := newFlow(ctx, bytes, func(int64) {})
	out := &flowWriter{f: stream}
	to, err := newQcow2Sink(out, dev.Size(), qcow2.Compression(j.o.Compress))
	if err != nil {
		_, err = stream.finish(err)
		return err
	}
	volume := newFlow(stream.ctx, to, j.o.phase(Reading, dev.Size()))
	to.ctx, volume.grain = volume.ctx, qcow2.ClusterBytes // before the first piece, with which others see it
	d, read, err := volume.copy(dev, dev.Size())
	var head []byte
	if err == nil {
		head, err = to.w.Finish()
	}
	if err == nil {
		err = out.flush()
	}
	written, err := stream.finish(err)
	if err != nil {
		return err
	}
	if err := j.out.f.Truncate(out.off); err != nil { // blocks of zeroes at the end were left out
		return err
	}
	if _, err := j.out.f.WriteAt(head, 0); err != nil {
		return err
	}
	j.report.ReadBytes, j.report.DataBytes = read, to.data
	image := &j.m.Image
	image.Bytes, image.DataBytes = out.off, bytes.data.Load()+int64(len(head))
	image.Compression = j.o.Compress
	image.Content = &Content{Bytes: dev.Size(), DataBytes: to.data, SHA256: d.whole, RangeBytes: RangeBytes, Ranges: d.ranges}
	j.head, j.body = head, written.ranges
	return nil
}

// proveQcow2 reads the image back from the disk and compares it with what was
// written, and what it holds with what was read.
func (j *job) proveQcow2(ctx context.Context) (digest, error) {
	image := &j.m.Image
	forget(j.out.partial())
	dev, err := file.Open(j.out.partial(), file.Options{ReadOnly: true})
	if err != nil {
		return digest{}, err
	}
	defer dev.Close()
	if dev.Size() != image.Bytes {
		return digest{}, errs.E(errs.Corrupt, "image as read back is damaged: the file has %d bytes instead of %d", dev.Size(), image.Bytes)
	}
	got, _, err := copyDevice(ctx, dev, image.Bytes, nowhere{}, j.o.phase(Verifying, image.Bytes))
	if err != nil {
		return digest{}, err
	}
	masked, err := j.maskedRange(ctx, dev)
	if err != nil {
		return digest{}, err
	}
	found := differing(&Content{Bytes: image.Bytes, RangeBytes: RangeBytes, Ranges: j.body}, append([]string{masked}, got.ranges[1:]...))
	if err := errDamaged("image as read back", found); err != nil {
		return digest{}, err
	}
	content, err := openContent(j.out.partial(), Qcow2)
	if err != nil {
		return digest{}, err
	}
	defer content.Close()
	c := image.Content
	found, err = checkRanges(ctx, content, c.Bytes, c.RangeBytes, c.Ranges, j.o.phase(Checking, c.Bytes))
	if err == nil {
		err = errDamaged("volume as read back from the image", found)
	}
	return got, err
}

// maskedRange is the hash of the first range with zeroes for the first cluster,
// which is compared with what was written itself.
func (j *job) maskedRange(ctx context.Context, dev block.Device) (string, error) {
	n := min(RangeBytes, dev.Size())
	head := make([]byte, len(j.head))
	if _, err := dev.ReadAt(head, 0); err != nil {
		return "", err
	}
	if !slices.Equal(head, j.head) {
		return "", errs.E(errs.Corrupt, "image as read back is damaged: its header differs from what was written")
	}
	f := newFlow(ctx, nowhere{}, func(int64) {})
	w := &flowWriter{f: f}
	_, err := w.Write(zeroes[:len(head)])
	buf := make([]byte, bufferBytes)
	for at := int64(len(head)); err == nil && at < n; {
		part := buf[:min(int64(len(buf)), n-at)]
		if _, err = dev.ReadAt(part, at); err == nil {
			_, err = w.Write(part)
		}
		at += int64(len(part))
	}
	if err == nil {
		err = w.flush()
	}
	d, err := f.finish(err)
	if err != nil {
		return "", err
	}
	return d.ranges[0], nil
}

// nowhere is the sink of an image that is only hashed.
type nowhere struct{}

func (nowhere) put(*piece) error { return nil }

// qcow2Sink makes an image of a volume's pieces. Pieces are compressed in parallel,
// and placed in order.
type qcow2Sink struct {
	ctx  context.Context // of the flow
	w    *qcow2.Writer
	data int64 // bytes of the volume that are not zero, as of a raw image

	encoders chan *qcow2.Encoder // one for each that compresses

	mu    sync.Mutex
	next  int64         // where the piece begins whose turn it is
	moved chan struct{} // closed when next moves on
}

// newQcow2Sink begins an image. The first cluster in the stream is zeroes, in
// place of the header.
func newQcow2Sink(out *flowWriter, size int64, how qcow2.Compression) (*qcow2Sink, error) {
	s := &qcow2Sink{encoders: make(chan *qcow2.Encoder, writerCount), moved: make(chan struct{})}
	for range writerCount {
		e, err := qcow2.NewEncoder(how)
		if err != nil {
			return nil, err
		}
		s.encoders <- e
	}
	if _, err := out.Write(zeroes[:qcow2.ClusterBytes]); err != nil {
		return nil, err
	}
	var err error
	s.w, err = qcow2.NewWriter(out, size, how)
	return s, err
}

// encodedCluster is a cluster of a piece, in its buffer.
type encodedCluster struct {
	no       int64
	from, to int
	packed   bool
}

// put implements sink. Pieces come in order, each to whoever is free: so the one
// whose turn it is always has somebody.
func (s *qcow2Sink) put(p *piece) error {
	var buf []byte
	var clusters []encodedCluster
	var data int64
	if !p.zero {
		var err error
		if buf, clusters, err = s.encode(p); err != nil {
			return err
		}
		for from, to := range dataRuns(p.buf) {
			data += int64(to - from)
		}
	}
	if err := s.await(p.off); err != nil {
		return err
	}
	for _, c := range clusters {
		if err := s.w.Put(c.no, buf[c.from:c.to], c.packed); err != nil {
			return err
		}
	}
	s.data += data
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = p.off + p.n
	close(s.moved)
	s.moved = make(chan struct{})
	return nil
}

// encode compresses the clusters of a piece that are not zero.
func (s *qcow2Sink) encode(p *piece) (buf []byte, out []encodedCluster, err error) {
	e := <-s.encoders
	defer func() { s.encoders <- e }()
	for at := 0; at < len(p.buf); at += qcow2.ClusterBytes {
		cluster := p.buf[at:min(at+qcow2.ClusterBytes, len(p.buf))]
		if isZero(cluster) {
			continue
		}
		c := encodedCluster{no: (p.off + int64(at)) / qcow2.ClusterBytes, from: len(buf)}
		if buf, c.packed, err = e.Encode(buf, cluster); err != nil {
			return nil, nil, err
		}
		c.to = len(buf)
		out = append(out, c)
	}
	return buf, out, nil
}

// await waits until it is the turn of the piece at off.
func (s *qcow2Sink) await(off int64) error {
	for {
		s.mu.Lock()
		next, moved := s.next, s.moved
		s.mu.Unlock()
		if next == off {
			return nil
		}
		select {
		case <-moved:
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		}
	}
}

// content returns what the image holds of the volume: of a raw one, all of it.
func (i *Image) content() *Content {
	if i.Content != nil {
		return i.Content
	}
	return &Content{Bytes: i.Bytes, DataBytes: i.DataBytes, SHA256: i.SHA256, RangeBytes: i.RangeBytes, Ranges: i.Ranges}
}

// openContent opens the volume's bytes in an image.
func openContent(path string, format Format) (block.Device, error) {
	f, err := file.Open(path, file.Options{ReadOnly: true})
	if err != nil || format != Qcow2 {
		return f, err
	}
	d, err := reader.Open(f, nil)
	if err == nil {
		return d, nil
	}
	if errs.Is(err, errs.Unsupported) {
		err = errs.WithHint(err, "qemu-img convert -O raw '%s' NEW makes an image that stands alone; restore that.", path)
	}
	return nil, errors.Join(fmt.Errorf("image %s: %w", path, err), f.Close())
}

// IsQcow2 tells whether a file is a qcow2 image: as its manifest says, without one by
// what is in it. Devices never are.
func IsQcow2(path string) (bool, error) {
	if st, err := os.Stat(path); err != nil || !st.Mode().IsRegular() {
		return false, err
	}
	if m, _, err := readManifest(path); err == nil {
		return m.Image.Format == Qcow2, nil
	}
	return looksLikeQcow2(path)
}

// looksLikeQcow2 tells whether an image without a manifest is qemu's: by what is in
// it, since a name may lie.
func looksLikeQcow2(path string) (bool, error) {
	f, err := file.Open(path, file.Options{ReadOnly: true})
	if err != nil {
		return false, err
	}
	defer f.Close()
	is, err := reader.Is(f)
	if err != nil {
		err = fmt.Errorf("%s: %w", filepath.Base(path), err)
	}
	return is, err
}
