package repo

import (
	"bytes"
	"context"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kopia/kopia/repo/blob"
)

// memStore is a store in memory that remembers in which order its blobs were
// put and deleted, and whose operations can be made to fail.
type memStore struct {
	blob.DefaultProviderImplementation

	mu    sync.Mutex
	blobs map[blob.ID]stamped
	log   []op
	// before may fail an operation, or change what a put stores.
	before func(op string, id blob.ID, data []byte) ([]byte, error)
	ahead  time.Duration // of the clock
}

func (s *memStore) now() time.Time { return time.Now().Add(s.ahead) }

type stamped struct {
	data []byte
	time time.Time
}

// op is a change of the store.
type op struct {
	id   blob.ID
	data []byte // nil: deleted
}

func newMemStore() *memStore { return &memStore{blobs: map[blob.ID]stamped{}} }

// after returns a store as a crash would leave it after the first n changes.
func (s *memStore) after(n int) *memStore {
	c := newMemStore()
	for i, o := range s.log[:n] {
		if o.data == nil {
			delete(c.blobs, o.id)
		} else {
			c.blobs[o.id] = stamped{o.data, time.Now().Add(time.Duration(i-n) * time.Millisecond)}
		}
	}
	return c
}

func (s *memStore) ask(op string, id blob.ID, data []byte) ([]byte, error) {
	if s.before == nil {
		return data, nil
	}
	return s.before(op, id, data)
}

func (s *memStore) PutBlob(_ context.Context, id blob.ID, data blob.Bytes, o blob.PutOptions) error {
	var b bytes.Buffer
	if _, err := data.WriteTo(&b); err != nil {
		return err
	}
	text, err := s.ask("put", id, b.Bytes())
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	s.blobs[id] = stamped{text, now}
	s.log = append(s.log, op{id, text})
	if o.GetModTime != nil {
		*o.GetModTime = now
	}
	return nil
}

func (s *memStore) DeleteBlob(_ context.Context, id blob.ID) error {
	if _, err := s.ask("delete", id, nil); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.blobs, id)
	s.log = append(s.log, op{id, nil})
	return nil
}

func (s *memStore) get(id blob.ID) ([]byte, time.Time, error) {
	if _, err := s.ask("get", id, nil); err != nil {
		return nil, time.Time{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.blobs[id]
	if !ok {
		return nil, time.Time{}, blob.ErrBlobNotFound
	}
	return b.data, b.time, nil
}

func (s *memStore) GetBlob(_ context.Context, id blob.ID, off, length int64, out blob.OutputBuffer) error {
	out.Reset()
	b, _, err := s.get(id)
	if err != nil {
		return err
	}
	if length < 0 {
		off, length = 0, int64(len(b))
	}
	if off+length > int64(len(b)) {
		return blob.ErrInvalidRange
	}
	_, err = io.Copy(out, bytes.NewReader(b[off:off+length]))
	return err
}

func (s *memStore) GetMetadata(_ context.Context, id blob.ID) (blob.Metadata, error) {
	b, t, err := s.get(id)
	return blob.Metadata{BlobID: id, Length: int64(len(b)), Timestamp: t}, err
}

func (s *memStore) ListBlobs(_ context.Context, prefix blob.ID, f func(blob.Metadata) error) error {
	if _, err := s.ask("list", prefix, nil); err != nil {
		return err
	}
	s.mu.Lock()
	blobs := maps.Clone(s.blobs)
	s.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(blobs)) {
		if !strings.HasPrefix(string(id), string(prefix)) {
			continue
		}
		if err := f(blob.Metadata{BlobID: id, Length: int64(len(blobs[id].data)), Timestamp: blobs[id].time}); err != nil {
			return err
		}
	}
	return nil
}

func (s *memStore) ConnectionInfo() blob.ConnectionInfo {
	return blob.ConnectionInfo{Type: liveType, Config: &liveOptions{}}
}

func (s *memStore) DisplayName() string { return "memory" }
