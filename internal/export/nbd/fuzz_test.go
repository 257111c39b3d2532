package nbd

import (
	"context"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"cowl/internal/block/mem"
)

// session is what an honest client sends, as the fuzzer's first idea.
func session(options [][]byte, requests ...[]byte) []byte {
	b := []byte{0, 0, 0, 3}
	for _, o := range options {
		b = append(b, o...)
	}
	return append(b, slices.Concat(requests...)...)
}

func optionBytes(opt uint32, data []byte) []byte {
	b := be.AppendUint64(nil, magicOption)
	b = be.AppendUint32(b, opt)
	return append(be.AppendUint32(b, uint32(len(data))), data...)
}

// Whatever a client sends: no panic, an end when the client ends, and the
// export given back.
func FuzzServer(f *testing.F) {
	plain := [][]byte{optionBytes(optExportName, []byte("vol"))}
	full := [][]byte{
		optionBytes(optList, nil), optionBytes(optStructuredReply, nil),
		optionBytes(optListMeta, metaData("vol")), optionBytes(optSetMeta, metaData("vol", contextAllocation, contextDepth)),
		optionBytes(optInfo, goData("vol", 0, 1, 2, 3)), optionBytes(optGo, goData("vol", 3)),
	}
	var requests [][]byte
	for cmd := range uint16(9) {
		if cmd == cmdDisconnect {
			continue
		}
		r := request{cmd: cmd, flags: 1, cookie: uint64(cmd), off: 4000, length: 200}.append(nil)
		if cmd == cmdWrite {
			r = append(r, make([]byte, 200)...)
		}
		requests = append(requests, r)
	}
	f.Add(session(plain, requests...))
	f.Add(session(full, requests...))
	f.Add(session(full, request{cmd: cmdRead, length: 100 << 10}.append(nil), request{cmd: cmdDisconnect}.append(nil)))
	f.Add(session(full, request{cmd: cmdWrite, length: 1<<32 - 1}.append(nil)))
	f.Add(session([][]byte{optionBytes(optStartTLS, nil), optionBytes(optAbort, nil)}))

	f.Fuzz(func(t *testing.T, sent []byte) {
		dev := mem.New(1 << 20)
		dev.WriteAt([]byte("data"), 8192)
		shelf := newShelf().with("vol", dev)
		ours, theirs := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			NewServer(shelf, nil).ServeConn(theirs)
		}()
		go io.Copy(io.Discard, ours)
		ours.Write(sent)
		ours.Close()
		select {
		case <-done:
		case <-time.After(patience):
			t.Fatal("the server goes on without its client")
		}
		if n := shelf.open("vol"); n != 0 {
			t.Errorf("export has %d users", n)
		}
	})
}

// Whatever a server sends: no panic, an end to every call when the server
// ends, and not a byte outside of the callers' buffers.
func FuzzClient(f *testing.F) {
	reply := func(opt, kind uint32, data []byte) []byte {
		b := be.AppendUint64(nil, magicOptionReply)
		b = be.AppendUint32(b, opt)
		b = be.AppendUint32(b, kind)
		return append(be.AppendUint32(b, uint32(len(data))), data...)
	}
	info := exportInfo(1<<20, liarFlags).data
	plain := join(greeting(), reply(optStructuredReply, repErrUnsup, nil), reply(optGo, repInfo, info), reply(optGo, repAck, nil))
	full := join(greeting(), reply(optStructuredReply, repAck, nil),
		reply(optSetMeta, repMetaContext, append(u32(0), contextAllocation...)),
		reply(optSetMeta, repMetaContext, append(u32(9), contextDepth...)), reply(optSetMeta, repAck, nil),
		reply(optGo, repInfo, info), reply(optGo, repInfo, join([]byte{0, 3}, u32(1), u32(4096), u32(1<<20))), reply(optGo, repAck, nil))
	f.Add(plain)
	f.Add(join(plain, appendSimple(nil, 1, 0), make([]byte, 1000), appendSimple(nil, 2, 0), make([]byte, 1000), appendSimple(nil, 3, 5)))
	for cookie := range uint64(5) {
		f.Add(join(full, structured(1, chunkData, cookie, join(u64(4096), make([]byte, 1000))), appendSimple(nil, cookie+1, 0)))
		f.Add(join(full, structured(0, chunkHole, cookie, join(u64(4096), u32(1000))), structured(1, chunkNone, cookie, nil)))
		f.Add(join(full, structured(0, chunkBlockStatus, cookie, join(u32(9), u32(2000), u32(1))),
			structured(1, chunkBlockStatus, cookie, join(u32(0), u32(50), u32(3), u32(950), u32(0)))))
		f.Add(join(full, structured(1, chunkError, cookie, join(u32(28), []byte{0, 4}, []byte("full")))))
	}

	f.Fuzz(func(t *testing.T, sent []byte) {
		ours, theirs := net.Pipe()
		go io.Copy(io.Discard, theirs)
		go func() {
			theirs.Write(sent)
			theirs.Close()
		}()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		d, err := open(ctx, ours, "vol")
		if err != nil {
			if ctx.Err() != nil {
				t.Fatal("Dial goes on without its server")
			}
			return
		}
		defer d.Close()

		var calls sync.WaitGroup
		frame := make([]byte, 3000)
		calls.Go(func() { d.ReadAt(frame[1000:2000], 4096) })
		calls.Go(func() { d.WriteAt(make([]byte, 1000), 4096) })
		calls.Go(func() {
			at := int64(4096)
			for e, err := range d.Extents(4096, 1000) {
				if err == nil && (e.Off != at || e.Len <= 0) {
					t.Errorf("extent %+v, want one at %d", e, at)
				}
				at = e.End()
			}
		})
		calls.Go(func() { d.Flush() })
		calls.Wait()
		for i := range 1000 {
			if frame[i] != 0 || frame[2000+i] != 0 {
				t.Fatal("written outside of the buffer")
			}
		}
	})
}
