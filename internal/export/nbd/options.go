package nbd

import (
	"fmt"
	"slices"

	"cowl/internal/block"
	"cowl/internal/errs"
	"cowl/internal/export"
)

// fields reads an option's data. What is not there reads as zero and sets bad.
type fields struct {
	b   []byte
	bad bool
}

func (f *fields) take(n uint32) []byte {
	if f.bad || uint64(n) > uint64(len(f.b)) {
		f.bad = true
		return nil
	}
	b := f.b[:n]
	f.b = f.b[n:]
	return b
}

func (f *fields) u16() uint16 {
	if b := f.take(2); b != nil {
		return be.Uint16(b)
	}
	return 0
}

func (f *fields) u32() uint32 {
	if b := f.take(4); b != nil {
		return be.Uint32(b)
	}
	return 0
}

func (f *fields) str() string { return string(f.take(f.u32())) }

// end tells whether everything was there, and nothing more.
func (f *fields) end() bool { return !f.bad && len(f.b) == 0 }

// exportName answers EXPORT_NAME, which knows no errors: the client is dropped.
func (h *handshake) exportName(data []byte) error {
	name := string(data)
	if wrong := checkName(name); wrong != "" {
		return errs.E(errs.Usage, "%s", wrong)
	}
	if h.c.srv.isClosing() {
		return errStopped
	}
	dev, err := h.exports.Open(name)
	if err != nil {
		return err
	}
	h.begin(name, dev)
	h.out = be.AppendUint64(h.out, uint64(dev.Size()))
	h.out = be.AppendUint16(h.out, transmissionFlags(dev.Caps(), h.structured))
	if !h.noZeroes {
		h.out = append(h.out, make([]byte, exportNameReplyZeros)...)
	}
	return nil
}

// begin settles the handshake. Metadata contexts that were selected for
// another export do not count.
func (h *handshake) begin(name string, dev block.Device) {
	h.dev = dev
	if h.metaExport != name {
		h.contexts = nil
	}
}

// list answers LIST.
func (h *handshake) list(opt uint32, data []byte) {
	if len(data) > 0 {
		h.fail(opt, repErrInvalid, "LIST takes no data")
		return
	}
	for _, info := range h.exports.List() {
		entry := appendString(nil, info.Name)
		entry = append(entry, cutText(info.Description, maxString)...)
		h.reply(opt, repServer, entry)
	}
	h.reply(opt, repAck, nil)
}

// infoOrGo answers INFO and GO. True means that the transmission begins.
func (h *handshake) infoOrGo(opt uint32, data []byte) bool {
	f := fields{b: data}
	name := f.str()
	wants := make([]uint16, 0, 4)
	for range f.u16() {
		if f.bad {
			break
		}
		wants = append(wants, f.u16())
	}
	if wrong := checkName(name); wrong != "" || !f.end() {
		h.fail(opt, repErrInvalid, "malformed INFO or GO "+wrong)
		return false
	}
	dev, err := h.exports.Open(name)
	if err != nil {
		h.failOpen(opt, name, err)
		return false
	}
	h.describe(opt, name, dev, wants)
	h.reply(opt, repAck, nil)
	if opt == optGo {
		h.begin(name, dev)
		return true
	}
	if err := dev.Close(); err != nil {
		h.c.srv.log.Warn("nbd: close export", "name", name, "error", err)
	}
	return false
}

// failOpen answers for an export that did not open.
func (h *handshake) failOpen(opt uint32, name string, err error) {
	if errs.Is(err, errs.NotFound) {
		h.fail(opt, repErrUnknown, fmt.Sprintf("no export %q", name))
		return
	}
	h.fail(opt, repErrPolicy, err.Error())
}

// describe appends what GO and INFO say of an export.
func (h *handshake) describe(opt uint32, name string, dev block.Device, wants []uint16) {
	info := be.AppendUint16(nil, infoExport)
	info = be.AppendUint64(info, uint64(dev.Size()))
	info = be.AppendUint16(info, transmissionFlags(dev.Caps(), h.structured))
	h.reply(opt, repInfo, info)

	if slices.Contains(wants, infoBlockSize) {
		info = be.AppendUint16(info[:0], infoBlockSize)
		info = be.AppendUint32(info, 1) // a Device takes any alignment
		info = be.AppendUint32(info, preferredBlock)
		info = be.AppendUint32(info, maxPayload)
		h.reply(opt, repInfo, info)
	}
	if slices.Contains(wants, infoName) {
		h.reply(opt, repInfo, append(be.AppendUint16(info[:0], infoName), name...))
	}
	if slices.Contains(wants, infoDescription) {
		if text := cutText(h.lookup(name).Description, maxString); text != "" {
			h.reply(opt, repInfo, append(be.AppendUint16(info[:0], infoDescription), text...))
		}
	}
}

// transmissionFlags are what a client may do with a device.
func transmissionFlags(caps block.Caps, structured bool) uint16 {
	// CAN_MULTI_CONN is export.Exports' promise.
	flags := uint16(flagHasFlags | flagSendFlush | flagSendFUA | flagSendCache | flagCanMultiConn)
	if structured {
		flags |= flagSendDF
	}
	if caps.ReadOnly {
		return flags | flagReadOnly
	}
	flags |= flagSendWriteZeroes | flagSendFastZero
	if caps.Discard {
		flags |= flagSendTrim
	}
	return flags
}

// structuredReply answers STRUCTURED_REPLY.
func (h *handshake) structuredReply(opt uint32, data []byte) {
	if len(data) > 0 {
		h.fail(opt, repErrInvalid, "STRUCTURED_REPLY takes no data")
		return
	}
	h.structured = true
	h.reply(opt, repAck, nil)
}

// metaContext answers LIST_META_CONTEXT and SET_META_CONTEXT.
func (h *handshake) metaContext(opt uint32, data []byte) {
	if opt == optSetMeta {
		h.contexts, h.metaExport = nil, "" // also where it fails
	}
	f := fields{b: data}
	name := f.str()
	var queries []string
	for n := f.u32(); n > 0 && !f.bad; n-- {
		queries = append(queries, f.str())
	}
	wrong := checkName(name)
	switch {
	case wrong != "" || !f.end():
		h.fail(opt, repErrInvalid, "malformed query of metadata contexts "+wrong)
		return
	case !h.structured:
		h.fail(opt, repErrInvalid, "metadata contexts need structured replies")
		return
	case !h.exists(name):
		h.fail(opt, repErrUnknown, fmt.Sprintf("no export %q", name))
		return
	}
	if opt == optSetMeta {
		h.setMeta(name, queries)
		return
	}
	for _, c := range contextsOf(h.lookup(name)) {
		if c.matches(queries) {
			h.reply(opt, repMetaContext, append(be.AppendUint32(nil, 0), c.name...))
		}
	}
	h.reply(opt, repAck, nil)
}

// setMeta selects what is asked for by its full name.
func (h *handshake) setMeta(name string, queries []string) {
	h.metaExport = name
	for _, c := range contextsOf(h.lookup(name)) {
		if slices.Contains(queries, c.name) {
			h.contexts = append(h.contexts, c)
			h.reply(optSetMeta, repMetaContext, append(be.AppendUint32(nil, c.id), c.name...))
		}
	}
	h.reply(optSetMeta, repAck, nil)
}

// matches tells whether LIST_META_CONTEXT asks for a context: by its name, by
// its namespace and a colon, or by no query at all.
func (c metaContext) matches(queries []string) bool {
	asks := func(query string) bool { return query == c.name || slices.Contains(c.namespaces, query) }
	return len(queries) == 0 || slices.ContainsFunc(queries, asks)
}

// lookup returns what List says of an export, nothing but zeroes where it says
// nothing. An only export is what the empty name stands for, if it opens.
func (h *handshake) lookup(name string) export.Info {
	list := h.exports.List()
	if name == "" && len(list) == 1 {
		return list[0]
	}
	if i := slices.IndexFunc(list, func(i export.Info) bool { return i.Name == name }); i >= 0 {
		return list[i]
	}
	return export.Info{}
}

// exists tells whether an export can be named. The empty name may be one that
// Open knows and List does not show.
func (h *handshake) exists(name string) bool {
	return name == "" || h.lookup(name).Name == name
}
