package ext4

import "cowl/internal/errs"

const (
	attrMagic     = 0xea020000
	attrMagicSize = 4 // the header in an inode
	attrHeader    = 32
	attrEntry     = 16
	offAttrSum    = 16
	// MaxAttr is the longest value of an attribute, bytes.
	MaxAttr = 1 << 16

	indexACL        = 2
	indexACLDefault = 3
	indexSystem     = 7
)

// attrPrefixes are what attributes' names begin with, by the number that is
// stored instead. Attributes of other numbers are the file system's own.
var attrPrefixes = map[uint8]string{
	1: "user.", indexACL: "system.posix_acl_access", indexACLDefault: "system.posix_acl_default",
	4: "trusted.", 6: "security.", 10: "gnu.",
}

// Attr is an extended attribute.
type Attr struct {
	Index uint8
	Name  string // behind the prefix
	Size  int    // of the value, bytes
	Value []byte // refers to the bytes it was decoded from; nil if it is in an inode
	Inode Ino    // holds the value, 0 if Value does
	Hash  uint32
}

// FullName is the name that listxattr gives. visible is false for attributes
// that the file system keeps for itself: inline data, encryption contexts.
func (a *Attr) FullName() (name string, visible bool) {
	prefix, ok := attrPrefixes[a.Index]
	return prefix + a.Name, ok
}

// IsACL tells whether the value is an access control list in ext4's form.
func (a *Attr) IsACL() bool { return a.Index == indexACL || a.Index == indexACLDefault }

// IsInlineData tells whether the value is the end of the inode's content.
func (a *Attr) IsInlineData() bool { return a.Index == indexSystem && a.Name == "data" }

// DecodeInodeAttrs decodes the attributes in an inode (Inode.Attrs).
func (sb *Superblock) DecodeInodeAttrs(b []byte) ([]Attr, error) {
	if len(b) < attrMagicSize || le.Uint32(b) != attrMagic {
		return nil, corrupt("no attributes here")
	}
	return sb.attrs(b[attrMagicSize:], 0)
}

// DecodeAttrBlock decodes the attributes in the block with the given number.
func (sb *Superblock) DecodeAttrBlock(b []byte, block uint64) ([]Attr, error) {
	if len(b) != sb.BlockSize || le.Uint32(b) != attrMagic || le.Uint32(b[8:]) != 1 {
		return nil, corrupt("block %d holds no attributes", block)
	}
	if sb.MetadataCsum() {
		seed := crcWord(crcWord(sb.Seed, uint32(block)), uint32(block>>32))
		if want, got := crcZeroed(seed, b, offAttrSum, 4), le.Uint32(b[offAttrSum:]); want != got {
			return nil, corrupt("bad checksum of the attributes in block %d (want %#08x, got %#08x)", block, want, got)
		}
	}
	return sb.attrs(b, attrHeader)
}

// attrs decodes the entries from off. Values are at offsets from the start of
// b, behind the entries.
func (sb *Superblock) attrs(b []byte, off int) ([]Attr, error) {
	var found []Attr
	for {
		if len(b)-off < 4 {
			return nil, corrupt("attributes without an end")
		}
		if le.Uint32(b[off:]) == 0 {
			break
		}
		a, next, err := sb.attr(b, off)
		if err != nil {
			return nil, err
		}
		found = append(found, a)
		off = next
	}
	return found, nil
}

// attr decodes the entry at off.
func (sb *Superblock) attr(b []byte, off int) (a Attr, next int, err error) {
	if len(b)-off < attrEntry {
		return a, 0, corrupt("attribute at byte %d is cut off", off)
	}
	e := b[off:]
	length := int(e[0])
	next = off + (attrEntry+length+3)&^3
	if next > len(b) {
		return a, 0, corrupt("attribute at byte %d has a name of %d bytes in %d", off, length, len(e))
	}
	at, size := uint64(le.Uint16(e[2:])), uint64(le.Uint32(e[8:]))
	a = Attr{Index: e[1], Name: string(e[attrEntry : attrEntry+length]), Size: int(size),
		Inode: Ino(le.Uint32(e[4:])), Hash: le.Uint32(e[12:])}
	for _, c := range []byte(a.Name) {
		if c == 0 {
			return a, 0, corrupt("attribute at byte %d has the name %q", off, a.Name)
		}
	}
	switch {
	case size > MaxAttr:
		return a, 0, corrupt("attribute %q has a value of %d bytes", a.Name, size)
	case a.Inode != 0 && (sb.Incompat&IncompatEAInode == 0 || uint32(a.Inode) > sb.Inodes):
		return a, 0, corrupt("attribute %q has its value in inode %d", a.Name, a.Inode)
	case a.Inode == 0 && size > 0 && at+size > uint64(len(b)):
		return a, 0, corrupt("attribute %q has %d bytes at byte %d of %d", a.Name, size, at, len(b))
	case a.Inode == 0 && size > 0:
		a.Value = b[at : at+size]
	}
	return a, next, nil
}

// CheckAttrInode checks the value that was read from an attribute's own inode.
func (sb *Superblock) CheckAttrInode(a *Attr, n *Inode, value []byte) error {
	want := uint32(n.Atime.Unix()) // where such an inode keeps its value's hash
	if got := CRC32C(sb.Seed, value); sb.MetadataCsum() && got != want {
		return corrupt("bad checksum of the value of attribute %q in inode %d (want %#08x, got %#08x)", a.Name, n.Ino, want, got)
	}
	return nil
}

// Access control lists, as stored and as the kernel presents them.
const (
	aclVersion     = 1
	aclShort       = 4
	aclLong        = 8
	aclShown       = 2
	aclUser        = 2
	aclGroup       = 8
	aclUndefined   = ^uint32(0)
	aclTagsWithout = 1 | 4 | 0x10 | 0x20
)

// ACLXattr turns a stored access control list into the value that getxattr
// gives for system.posix_acl_access and _default: every entry has an id.
func ACLXattr(b []byte) ([]byte, error) {
	if len(b) < 4 {
		return nil, corrupt("access control list of %d bytes", len(b))
	}
	if v := le.Uint32(b); v != aclVersion {
		return nil, errs.E(errs.Unsupported, "access control list of version %d, cowl knows version %d", v, aclVersion)
	}
	out := le.AppendUint32(nil, aclShown)
	for rest := b[4:]; len(rest) > 0; {
		if len(rest) < aclShort {
			return nil, corrupt("access control list is cut off")
		}
		tag, id, length := le.Uint16(rest), aclUndefined, aclShort
		switch {
		case tag == aclUser || tag == aclGroup:
			if length = aclLong; len(rest) < length {
				return nil, corrupt("access control list is cut off")
			}
			id = le.Uint32(rest[4:])
		case tag&aclTagsWithout == 0 || tag&(tag-1) != 0:
			return nil, corrupt("access control list has an entry with tag %#x", tag)
		}
		out = append(out, rest[:4]...)
		out = le.AppendUint32(out, id)
		rest = rest[length:]
	}
	return out, nil
}
