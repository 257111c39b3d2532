package repo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync/atomic"

	"github.com/kopia/kopia/repo/blob"

	"cowl/internal/errs"
)

// Store is where the blobs of a repository are.
type Store struct {
	blob.Storage
	// Name is how people name it, "" for the storage's own name.
	Name string
	// Confirms says that the store compares what it received with a checksum
	// that was sent along (S3), so that nothing need be read back.
	Confirms bool
	// Remote says that reading it again costs more than keeping a copy here.
	Remote bool
}

// proof is a blob.Storage that proves what is written to another one and keeps
// the checksums.
type proof struct {
	st       blob.Storage
	name     string
	confirms bool
	sums     *ledger
	taken    func() // called when kopia's library has come for it

	written atomic.Int64 // bytes of all blobs that were put
	read    atomic.Int64
}

var _ blob.Storage = (*proof)(nil)

// PutBlob implements blob.Storage.
func (p *proof) PutBlob(ctx context.Context, id blob.ID, data blob.Bytes, opts blob.PutOptions) error {
	// Hashed while it is written: of a pack that is a tenth of the time.
	hashed := make(chan error, 1)
	sum := sha256.New()
	go func() {
		_, err := data.WriteTo(sum)
		hashed <- err
	}()
	err := p.st.PutBlob(ctx, id, data, opts)
	if hashErr := <-hashed; hashErr != nil {
		return hashErr
	}
	if err != nil {
		return p.blame(ctx, "write", id, err)
	}
	want := entry{Length: int64(data.Length()), SHA256: hex.EncodeToString(sum.Sum(nil))}
	p.written.Add(want.Length)
	if !p.confirms {
		if err := p.readBack(ctx, id, data); err != nil {
			return err
		}
	}
	p.sums.put(id, want)
	return nil
}

// readBack compares what the store returns with what it was given. What does
// not return whole is taken away again: nothing must come to refer to it.
func (p *proof) readBack(ctx context.Context, id blob.ID, data blob.Bytes) error {
	r := data.Reader()
	defer r.Close()
	c := &comparer{want: r}
	err := p.st.GetBlob(ctx, id, 0, -1, c)
	switch {
	case err != nil:
		return p.blame(ctx, "read back", id, err)
	case c.n == int64(data.Length()) && !c.differs:
		return nil
	}
	_ = p.st.DeleteBlob(context.WithoutCancel(ctx), id)
	return &storeError{errs.WithHint(errs.E(errs.Corrupt, "%s does not return what was written to it (blob %s)", p.name, id),
		"Look at the target's health and at the kernel's log.")}
}

// comparer is a blob.OutputBuffer that compares instead of keeping.
type comparer struct {
	want    io.ReadSeeker
	buf     [32 << 10]byte
	n       int64
	differs bool
}

// Write implements io.Writer.
func (c *comparer) Write(b []byte) (int, error) {
	for rest := b; len(rest) > 0; {
		part := c.buf[:min(len(rest), len(c.buf))]
		if _, err := io.ReadFull(c.want, part); err != nil || !bytes.Equal(part, rest[:len(part)]) {
			c.differs = true
		}
		rest = rest[len(part):]
	}
	c.n += int64(len(b))
	return len(b), nil
}

// Reset implements blob.OutputBuffer: a store that tries again begins anew.
func (c *comparer) Reset() {
	_, err := c.want.Seek(0, io.SeekStart)
	c.n, c.differs = 0, err != nil
}

// Length implements blob.OutputBuffer.
func (c *comparer) Length() int { return int(c.n) }

// digester is a blob.OutputBuffer that hashes instead of keeping.
type digester struct {
	h hash.Hash
	n int64
}

func newDigester() *digester { return &digester{h: sha256.New()} }

// Write implements io.Writer.
func (d *digester) Write(b []byte) (int, error) {
	d.n += int64(len(b))
	return d.h.Write(b)
}

// Reset implements blob.OutputBuffer.
func (d *digester) Reset() { d.h.Reset(); d.n = 0 }

// Length implements blob.OutputBuffer.
func (d *digester) Length() int { return int(d.n) }

func (d *digester) entry() entry {
	return entry{Length: d.n, SHA256: hex.EncodeToString(d.h.Sum(nil))}
}

// storeError is an error of the store itself. explain digs it out of what
// kopia's layers wrap around it.
type storeError struct{ error }

func (e *storeError) Unwrap() error { return e.error }

// blame makes an error of the store's.
func (p *proof) blame(ctx context.Context, op string, id blob.ID, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return &storeError{fmt.Errorf("%s: %s blob %s: %w", p.name, op, id, err)}
}

// isMissing tells whether an error says that a blob is not there.
func isMissing(err error) bool { return errors.Is(err, blob.ErrBlobNotFound) }

// explain reduces an error of kopia's to the store's error in it, if there is
// one, and to the context's, and otherwise leaves it alone.
func explain(ctx context.Context, err error) error {
	var s *storeError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &s):
		return s.error
	}
	return err
}

// GetBlob implements blob.Storage.
func (p *proof) GetBlob(ctx context.Context, id blob.ID, off, length int64, out blob.OutputBuffer) error {
	err := p.st.GetBlob(ctx, id, off, length, out)
	p.read.Add(int64(out.Length()))
	// kopia asks for blobs that need not be there; and one that is too short is
	// damage, no failure of the store.
	if err != nil && !isMissing(err) && !errors.Is(err, blob.ErrInvalidRange) {
		return p.blame(ctx, "read", id, err)
	}
	return err
}

// GetMetadata implements blob.Storage.
func (p *proof) GetMetadata(ctx context.Context, id blob.ID) (blob.Metadata, error) {
	m, err := p.st.GetMetadata(ctx, id)
	if err != nil && !isMissing(err) {
		return m, p.blame(ctx, "look at", id, err)
	}
	return m, err
}

// ListBlobs implements blob.Storage.
func (p *proof) ListBlobs(ctx context.Context, prefix blob.ID, f func(blob.Metadata) error) error {
	var own error
	err := p.st.ListBlobs(ctx, prefix, func(m blob.Metadata) error {
		own = f(m)
		return own
	})
	if err != nil && own == nil {
		return p.blame(ctx, "list", prefix+"*", err)
	}
	return err
}

// DeleteBlob implements blob.Storage.
func (p *proof) DeleteBlob(ctx context.Context, id blob.ID) error {
	if err := p.st.DeleteBlob(ctx, id); err != nil {
		return p.blame(ctx, "delete", id, err)
	}
	p.sums.drop(id)
	return nil
}

// GetCapacity implements blob.Storage.
func (p *proof) GetCapacity(ctx context.Context) (blob.Capacity, error) { return p.st.GetCapacity(ctx) }

// ExtendBlobRetention implements blob.Storage.
func (p *proof) ExtendBlobRetention(ctx context.Context, id blob.ID, o blob.ExtendOptions) error {
	return p.st.ExtendBlobRetention(ctx, id, o)
}

// FlushCaches implements blob.Storage.
func (p *proof) FlushCaches(ctx context.Context) error { return p.st.FlushCaches(ctx) }

// ConnectionInfo implements blob.Storage.
func (p *proof) ConnectionInfo() blob.ConnectionInfo { return p.st.ConnectionInfo() }

// DisplayName implements blob.Storage.
func (p *proof) DisplayName() string { return p.name }

// IsReadOnly implements blob.Storage.
func (p *proof) IsReadOnly() bool { return p.st.IsReadOnly() }

// Close implements blob.Storage.
func (p *proof) Close(ctx context.Context) error { return p.st.Close(ctx) }
