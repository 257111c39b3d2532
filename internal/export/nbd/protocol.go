package nbd

import (
	"encoding/binary"
	"slices"

	"cowl/internal/export"
)

// Everything on the wire is big-endian. The numbers are those of the protocol's
// document, https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md.
var be = binary.BigEndian

// Magic numbers.
const (
	magicInit        = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption      = 0x49484156454f5054 // "IHAVEOPT"
	magicOptionReply = 0x0003e889045565a9
	magicRequest     = 0x25609513
	magicSimple      = 0x67446698
	magicStructured  = 0x668e33ef
)

// Handshake flags, the server's and the client's.
const (
	flagFixedNewstyle = 1 << 0
	flagNoZeroes      = 1 << 1
)

// Transmission flags.
const (
	flagHasFlags        = 1 << 0
	flagReadOnly        = 1 << 1
	flagSendFlush       = 1 << 2
	flagSendFUA         = 1 << 3
	flagSendTrim        = 1 << 5
	flagSendWriteZeroes = 1 << 6
	flagSendDF          = 1 << 7
	flagCanMultiConn    = 1 << 8
	flagSendCache       = 1 << 10
	flagSendFastZero    = 1 << 11
)

// Options.
const (
	optExportName      = 1
	optAbort           = 2
	optList            = 3
	optStartTLS        = 5
	optInfo            = 6
	optGo              = 7
	optStructuredReply = 8
	optListMeta        = 9
	optSetMeta         = 10
)

// Replies to options.
const (
	repAck         = 1
	repServer      = 2
	repInfo        = 3
	repMetaContext = 4

	repErr         = 1 << 31 // set in all that follow
	repErrUnsup    = repErr + 1
	repErrPolicy   = repErr + 2
	repErrInvalid  = repErr + 3
	repErrPlatform = repErr + 4
	repErrTLSReqd  = repErr + 5
	repErrUnknown  = repErr + 6
	repErrShutdown = repErr + 7
	repErrTooBig   = repErr + 9
)

// Kinds of information in repInfo.
const (
	infoExport      = 0
	infoName        = 1
	infoDescription = 2
	infoBlockSize   = 3
)

// Commands.
const (
	cmdRead        = 0
	cmdWrite       = 1
	cmdDisconnect  = 2
	cmdFlush       = 3
	cmdTrim        = 4
	cmdCache       = 5
	cmdWriteZeroes = 6
	cmdBlockStatus = 7
)

// Command flags.
const (
	cmdFlagFUA      = 1 << 0
	cmdFlagNoHole   = 1 << 1
	cmdFlagDF       = 1 << 2
	cmdFlagReqOne   = 1 << 3
	cmdFlagFastZero = 1 << 4
)

// Structured replies: flag and chunk types.
const (
	replyFlagDone = 1 << 0

	chunkNone        = 0
	chunkData        = 1
	chunkHole        = 2
	chunkBlockStatus = 5
	chunkErrorBit    = 1 << 15 // set in every type that reports an error
	chunkError       = chunkErrorBit + 1
)

// States in the metadata context base:allocation.
const (
	stateHole = 1 << 0
	stateZero = 1 << 1
)

// States in a metadata context qemu:dirty-bitmap:NAME.
const stateDirty = 1 << 0

// metaContext is something that block status tells of extents.
type metaContext struct {
	id         uint32 // by which a cowl server knows it
	name       string
	namespaces []string // by which it can be asked for as well
	bitmap     *export.Bitmap
}

const (
	idAllocation = 1
	idDepth      = 2
	idBitmap     = 3 // of the first; others follow

	contextAllocation = "base:allocation"
	contextDepth      = "qemu:allocation-depth"
	contextBitmap     = "qemu:dirty-bitmap:" // and its name

	// maxBitmaps bounds what one request for block status can ask for.
	maxBitmaps = 16
)

// metaContexts are those that every export has.
var metaContexts = []metaContext{
	{id: idAllocation, name: contextAllocation, namespaces: []string{"base:"}},
	{id: idDepth, name: contextDepth, namespaces: []string{"qemu:"}},
}

// BitmapContext is the metadata context by which clients ask for a bitmap.
func BitmapContext(name string) string { return contextBitmap + name }

// contextsOf are those that an export has: with one for each bitmap.
func contextsOf(info export.Info) []metaContext {
	all := slices.Clone(metaContexts)
	for i := range info.Bitmaps[:min(len(info.Bitmaps), maxBitmaps)] {
		b := &info.Bitmaps[i]
		all = append(all, metaContext{idBitmap + uint32(i), contextBitmap + b.Name, []string{"qemu:", contextBitmap}, b})
	}
	return all
}

// Sizes on the wire, in bytes.
const (
	greetingSize         = 8 + 8 + 2
	optionHeaderSize     = 8 + 4 + 4
	optionReplySize      = 8 + 4 + 4 + 4
	requestSize          = 4 + 2 + 2 + 8 + 8 + 4
	simpleReplySize      = 4 + 4 + 8
	chunkHeaderSize      = 4 + 2 + 2 + 8 + 4
	dataChunkSize        = chunkHeaderSize + 8 // without the data
	holeChunkSize        = chunkHeaderSize + 8 + 4
	errorChunkSize       = chunkHeaderSize + 4 + 2 // without the text
	descriptorSize       = 4 + 4
	exportNameReplySize  = 8 + 2
	exportNameReplyZeros = 124
)

// Limits.
const (
	maxString = 4096 // of a name, description or message, in bytes

	// maxPayload is the longest READ or WRITE, the protocol's default.
	maxPayload     = 32 << 20
	preferredBlock = 4096
)

// request is the header of a command.
type request struct {
	flags  uint16
	cmd    uint16
	cookie uint64
	off    uint64
	length uint32
}

// decodeRequest reads a header of requestSize bytes; false means that the
// magic is wrong.
func decodeRequest(b []byte) (request, bool) {
	_ = b[requestSize-1]
	return request{
		flags:  be.Uint16(b[4:]),
		cmd:    be.Uint16(b[6:]),
		cookie: be.Uint64(b[8:]),
		off:    be.Uint64(b[16:]),
		length: be.Uint32(b[24:]),
	}, be.Uint32(b) == magicRequest
}

// append appends the header as it goes on the wire.
func (r request) append(b []byte) []byte {
	b = be.AppendUint32(b, magicRequest)
	b = be.AppendUint16(b, r.flags)
	b = be.AppendUint16(b, r.cmd)
	b = be.AppendUint64(b, r.cookie)
	b = be.AppendUint64(b, r.off)
	return be.AppendUint32(b, r.length)
}

// appendSimple appends a simple reply without data.
func appendSimple(b []byte, cookie uint64, errno uint32) []byte {
	b = be.AppendUint32(b, magicSimple)
	b = be.AppendUint32(b, errno)
	return be.AppendUint64(b, cookie)
}

// appendChunk appends the header of a structured reply's chunk.
func appendChunk(b []byte, flags, kind uint16, cookie uint64, length int) []byte {
	b = be.AppendUint32(b, magicStructured)
	b = be.AppendUint16(b, flags)
	b = be.AppendUint16(b, kind)
	b = be.AppendUint64(b, cookie)
	return be.AppendUint32(b, uint32(length))
}

// appendDataHeader appends what precedes the length bytes of a data chunk.
func appendDataHeader(b []byte, flags uint16, cookie, off uint64, length int) []byte {
	b = appendChunk(b, flags, chunkData, cookie, 8+length)
	return be.AppendUint64(b, off)
}

// appendHole appends a hole chunk.
func appendHole(b []byte, flags uint16, cookie, off uint64, length uint32) []byte {
	b = appendChunk(b, flags, chunkHole, cookie, 8+4)
	b = be.AppendUint64(b, off)
	return be.AppendUint32(b, length)
}

// appendError appends a final error chunk with a text for people.
func appendError(b []byte, cookie uint64, errno uint32, text string) []byte {
	text = text[:min(len(text), maxString)]
	b = appendChunk(b, replyFlagDone, chunkError, cookie, 4+2+len(text))
	b = be.AppendUint32(b, errno)
	b = be.AppendUint16(b, uint16(len(text)))
	return append(b, text...)
}

// appendString appends a string as options carry it: length, bytes.
func appendString(b []byte, s string) []byte {
	b = be.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}
