package nbd

import (
	"bytes"
	"strings"
	"testing"

	"cowl/internal/block/mem"
)

func twoExports() *shelf {
	return newShelf().with("vol", mem.New(1<<20)).with("snap", mem.New(4096))
}

// What each option is answered with; the numbers are the protocol's.
func TestOptions(t *testing.T) {
	long := strings.Repeat("n", maxString+1)
	tests := []struct {
		name string
		opt  uint32
		data []byte
		want string
	}{
		{"unknown", 99, []byte("whatever"), "error 1 unknown option 99"},
		{"extended headers", 11, nil, "error 1 unknown option 11"},
		{"TLS", optStartTLS, nil, "error 1 this server has no TLS; it listens on a unix socket that only its owner can open"},
		{"list", optList, nil, "server vol (about vol), server snap (about snap), ack"},
		{"list with data", optList, []byte{1}, "error 3 LIST takes no data"},
		{"structured reply", optStructuredReply, nil, "ack"},
		{"structured reply with data", optStructuredReply, []byte{1}, "error 3 STRUCTURED_REPLY takes no data"},
		{"info", optInfo, goData("vol"), "info 000000000000001000000d6d, ack"},
		{"info of everything", optInfo, goData("vol", infoBlockSize, infoDescription, infoName, 77),
			"info 000000000000001000000d6d, info 0003" + "00000001" + "00001000" + "02000000" +
				", info 0001766f6c, info 000261626f757420766f6c, ack"},
		{"info of nothing there", optInfo, goData("vole"), `error 6 no export "vole"`},
		{"go to nothing there", optGo, goData(""), `error 6 no export ""`},
		{"go with a NUL", optGo, goData("vol\x00"), "error 3 malformed INFO or GO export name with a NUL"},
		{"go with bytes", optGo, goData("\xff"), "error 3 malformed INFO or GO export name is not UTF-8"},
		{"go with a long name", optGo, goData(long), "error 3 malformed INFO or GO export name of 4097 bytes"},
		{"go without data", optGo, nil, "error 3 malformed INFO or GO "},
		{"go with a name that lies", optGo, be.AppendUint32(nil, 1<<32-1), "error 3 malformed INFO or GO "},
		{"go with infos that lie", optGo, append(appendString(nil, "vol"), 0xff, 0xff, 0, 0), "error 3 malformed INFO or GO "},
		{"go with a tail", optGo, append(goData("vol"), 0), "error 3 malformed INFO or GO "},
		{"contexts without structured replies", optSetMeta, metaData("vol", contextAllocation),
			"error 3 metadata contexts need structured replies"},
		{"contexts without data", optListMeta, nil, "error 3 malformed query of metadata contexts "},
		{"contexts that lie", optListMeta, append(appendString(nil, "vol"), 0xff, 0xff, 0xff, 0xff), "error 3 malformed query of metadata contexts "},
	}
	s := NewServer(twoExports(), nil)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newPeer(t, s)
			for range 2 { // the answer is the same, and the connection survives
				if got := text(p.option(tt.opt, tt.data)); got != tt.want {
					t.Errorf("answer %q, want %q", got, tt.want)
				}
			}
		})
	}
}

// Which contexts are offered and selected once replies are structured.
func TestMetaContexts(t *testing.T) {
	const both = "context 0 base:allocation, context 0 qemu:allocation-depth, ack"
	tests := []struct {
		name    string
		opt     uint32
		queries []string
		want    string
	}{
		{"list all", optListMeta, nil, both},
		{"list namespaces", optListMeta, []string{"qemu:", "base:"}, both},
		{"list one", optListMeta, []string{"base:allocation"}, "context 0 base:allocation, ack"},
		{"list strangers", optListMeta, []string{"x-other:thing", "base:none", "nonsense", ""}, "ack"},
		{"set none", optSetMeta, nil, "ack"},
		{"set wildcards", optSetMeta, []string{"base:", "qemu:"}, "ack"},
		{"set both", optSetMeta, []string{contextDepth, contextAllocation}, "context 1 base:allocation, context 2 qemu:allocation-depth, ack"},
		{"set twice the same", optSetMeta, []string{contextDepth, contextDepth}, "context 2 qemu:allocation-depth, ack"},
		{"set a stranger too", optSetMeta, []string{"qemu:dirty-bitmap:x", contextAllocation}, "context 1 base:allocation, ack"},
	}
	s := NewServer(twoExports(), nil)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newPeer(t, s)
			p.option(optStructuredReply, nil)
			if got := text(p.option(tt.opt, metaData("vol", tt.queries...))); got != tt.want {
				t.Errorf("answer %q, want %q", got, tt.want)
			}
			if got := text(p.option(tt.opt, metaData("vole", tt.queries...))); got != `error 6 no export "vole"` {
				t.Errorf("for an export that is not there: %q", got)
			}
		})
	}
}

// Contexts that were selected for one export mean nothing for another, and a
// later selection replaces an earlier one, also when it fails.
func TestMetaContextsOfAnotherExport(t *testing.T) {
	s := NewServer(twoExports(), nil)
	for _, last := range [][]byte{metaData("snap", contextAllocation), metaData("vol"), metaData("vole", contextAllocation), {1}} {
		p := newPeer(t, s)
		p.option(optStructuredReply, nil)
		p.option(optSetMeta, metaData("vol", contextAllocation))
		p.option(optSetMeta, last)
		p.option(optGo, goData("vol"))
		p.ask(request{cmd: cmdBlockStatus, length: 4096})
		p.expectErrno(nbdEINVAL)
	}
}

// EXPORT_NAME is what the oldest clients use: no errors, and 124 zeroes for
// those who do not know better.
func TestExportName(t *testing.T) {
	shelf := twoExports()
	s := NewServer(shelf, nil)
	want := append(be.AppendUint64(nil, 1<<20), 0x0d, 0x6d)

	p := newPeer(t, s)
	p.sendOption(optExportName, []byte("vol"))
	p.expect(want)
	p.ask(request{cmd: cmdWrite, cookie: 7, length: 3}, "abc")
	p.expect(appendSimple(nil, 7, 0))
	p.ask(request{cmd: cmdRead, cookie: 8, length: 3})
	p.expect(append(appendSimple(nil, 8, 0), "abc"...))
	p.ask(request{cmd: cmdDisconnect})
	p.expectEnd()

	p = &peer{t, pipe(t, s)}
	p.expect(greeting())
	p.say(be.AppendUint32(nil, flagFixedNewstyle))
	p.sendOption(optExportName, []byte("vol"))
	p.expect(append(want, make([]byte, 124)...))

	for _, name := range []string{"vole", "", "vol\x00", "\xff", strings.Repeat("n", 5000)} {
		p = newPeer(t, s)
		p.sendOption(optExportName, []byte(name))
		p.expectEnd()
	}
}

// What a peer can do wrong before the transmission ends its connection, or
// with ABORT is what it wanted.
func TestHandshakeEnds(t *testing.T) {
	shelf := twoExports()
	s := NewServer(shelf, nil)
	option := func(opt, length uint32) []byte {
		b := be.AppendUint64(nil, magicOption)
		b = be.AppendUint32(b, opt)
		return be.AppendUint32(b, length)
	}
	refusal := func(opt, kind uint32) []byte {
		b := be.AppendUint64(nil, magicOptionReply)
		b = be.AppendUint32(b, opt)
		b = be.AppendUint32(b, kind)
		return be.AppendUint32(b, 0)
	}
	t.Run("unknown client flags", func(t *testing.T) {
		p := &peer{t, pipe(t, s)}
		p.expect(greeting())
		p.say([]byte{0, 0, 1, 3})
		p.expectEnd()
	})
	t.Run("bad magic", func(t *testing.T) {
		p := newPeer(t, s)
		p.say([]byte("GET / HTTP/1.1\r\n"))
		p.expectEnd()
	})
	t.Run("absurd length", func(t *testing.T) {
		p := newPeer(t, s)
		p.say(option(optGo, 1<<32-1))
		p.expect(refusal(optGo, repErrTooBig))
		p.expectEnd()
	})
	t.Run("absurd export name", func(t *testing.T) {
		p := newPeer(t, s)
		p.say(option(optExportName, maxOption+1))
		p.expect(refusal(optExportName, repErrTooBig))
		p.expectEnd()
	})
	t.Run("abort", func(t *testing.T) {
		p := newPeer(t, s)
		p.say(option(optAbort, 0))
		p.expect(refusal(optAbort, repAck))
		p.expectEnd()
	})
	t.Run("endless options", func(t *testing.T) {
		p := newPeer(t, s)
		for range maxOptions {
			p.option(99, nil)
		}
		p.expectEnd()
	})
	if n := shelf.open("vol"); n != 0 {
		t.Errorf("export still has %d users", n)
	}
}

// GO must say what INFO said, or a client that asked first would go wrong.
func TestInfoThenGo(t *testing.T) {
	s := NewServer(twoExports(), nil)
	p := newPeer(t, s)
	p.option(optStructuredReply, nil)
	data := goData("snap", infoBlockSize, infoName)
	info := text(p.option(optInfo, data))
	if got := text(p.option(optGo, data)); got != info {
		t.Errorf("INFO %s, GO %s", info, got)
	}
	// 0xed: structured replies brought DF along.
	if !bytes.Contains([]byte(info), []byte("info 00000000000000001000"+"0ded")) {
		t.Errorf("INFO says %s", info)
	}
}
