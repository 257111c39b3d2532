package nbd

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"cowl/internal/block"
	"cowl/internal/errs"
	"cowl/internal/export"
)

// Limits of the handshake, which nobody has authenticated for yet.
const (
	optionTimeout = 30 * time.Second // for a client's next option, and to take the answer
	maxOption     = 64 << 10         // bytes of an option's data
	maxOptions    = 1024             // options in one handshake
)

// negotiated is what a handshake settles.
type negotiated struct {
	dev        block.Device // the export, open; nil if the client left
	structured bool
	contexts   []metaContext // that were selected
}

// handshake is the server's side of the option haggling.
type handshake struct {
	negotiated
	exports export.Exports
	c       *conn

	noZeroes   bool
	metaExport string // what contexts were selected for
	out        []byte // replies to one option
}

// run greets the client and answers options until one of them starts the
// transmission, the client leaves, or something is wrong.
func (h *handshake) run() error {
	if err := h.greet(); err != nil {
		return err
	}
	for range maxOptions {
		opt, data, err := h.readOption()
		if err != nil {
			return endOfStream(err, false)
		}
		h.out = h.out[:0]
		done, err := h.answer(opt, data)
		if err != nil {
			return err
		}
		if _, err := h.c.nc.Write(h.out); err != nil {
			return fmt.Errorf("answer option %d: %w", opt, err)
		}
		if done {
			return nil
		}
	}
	return errs.E(errs.Usage, "more than %d options", maxOptions)
}

// greet exchanges the flags.
func (h *handshake) greet() error {
	hello := be.AppendUint64(nil, magicInit)
	hello = be.AppendUint64(hello, magicOption)
	hello = be.AppendUint16(hello, flagFixedNewstyle|flagNoZeroes)
	h.c.expect(optionTimeout)
	if _, err := h.c.nc.Write(hello); err != nil {
		return fmt.Errorf("greet: %w", err)
	}
	var b [4]byte
	if _, err := io.ReadFull(h.c.br, b[:]); err != nil {
		return endOfStream(err, false)
	}
	flags := be.Uint32(b[:])
	if flags&^(flagFixedNewstyle|flagNoZeroes) != 0 {
		return errs.E(errs.Usage, "unknown client flags %#x", flags)
	}
	h.noZeroes = flags&flagNoZeroes != 0
	return nil
}

// readOption reads one option with its data.
func (h *handshake) readOption() (opt uint32, data []byte, err error) {
	h.c.expect(optionTimeout)
	var head [optionHeaderSize]byte
	if _, err := io.ReadFull(h.c.br, head[:]); err != nil {
		return 0, nil, err
	}
	if magic := be.Uint64(head[:]); magic != magicOption {
		return 0, nil, errs.E(errs.Usage, "bad option magic %#x", magic)
	}
	opt = be.Uint32(head[8:])
	n := be.Uint32(head[12:])
	if n > maxOption {
		h.reply(opt, repErrTooBig, nil)
		h.c.nc.Write(h.out) // best effort: the client is dropped in any case
		return 0, nil, errs.E(errs.Usage, "option %d with %d bytes of data", opt, n)
	}
	data = make([]byte, n)
	if _, err := io.ReadFull(h.c.br, data); err != nil {
		return 0, nil, fmt.Errorf("option %d: %w", opt, io.ErrUnexpectedEOF)
	}
	return opt, data, nil
}

// answer puts the replies to an option into out. done means that the handshake
// is over: with dev set the transmission begins.
func (h *handshake) answer(opt uint32, data []byte) (done bool, err error) {
	switch opt {
	case optExportName:
		return true, h.exportName(data)
	case optAbort:
		h.reply(opt, repAck, nil)
		return true, nil
	}
	if h.c.srv.isClosing() {
		h.fail(opt, repErrShutdown, errStopped.Error())
		return false, nil
	}
	switch opt {
	case optList:
		h.list(opt, data)
	case optInfo, optGo:
		return h.infoOrGo(opt, data), nil
	case optStructuredReply:
		h.structuredReply(opt, data)
	case optListMeta, optSetMeta:
		h.metaContext(opt, data)
	case optStartTLS:
		h.fail(opt, repErrUnsup, "this server has no TLS; it listens on a unix socket that only its owner can open")
	default:
		h.fail(opt, repErrUnsup, fmt.Sprintf("unknown option %d", opt))
	}
	return false, nil
}

// reply appends a reply to an option.
func (h *handshake) reply(opt, kind uint32, data []byte) {
	h.out = be.AppendUint64(h.out, magicOptionReply)
	h.out = be.AppendUint32(h.out, opt)
	h.out = be.AppendUint32(h.out, kind)
	h.out = be.AppendUint32(h.out, uint32(len(data)))
	h.out = append(h.out, data...)
}

// fail appends an error reply with a text for people.
func (h *handshake) fail(opt, kind uint32, text string) {
	h.reply(opt, kind, []byte(cutText(text, maxString)))
}

// cutText returns at most max bytes of a text, valid as UTF-8.
func cutText(text string, max int) string {
	return strings.ToValidUTF8(text[:min(len(text), max)], "")
}

// checkName says what is wrong with an export's name, or "".
func checkName(name string) string {
	switch {
	case len(name) > maxString:
		return fmt.Sprintf("export name of %d bytes", len(name))
	case strings.ContainsRune(name, 0):
		return "export name with a NUL"
	case !utf8.ValidString(name):
		return "export name is not UTF-8"
	}
	return ""
}
