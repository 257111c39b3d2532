package fsread

import (
	"fmt"

	"cowl/internal/errs"
	"cowl/internal/format/ext4"
)

// Xattr is an extended attribute as getxattr gives it.
type Xattr struct {
	Name  string // with its prefix: user.mime_type
	Value []byte // nobody may change it
}

// Xattrs returns a node's extended attributes in the kernel's order: those in
// the inode, then those in its block. Access control lists have the form in
// which the kernel presents them, as system.posix_acl_access and _default.
// Trusted attributes, which the kernel shows to root, are among them; what the
// file system keeps for itself is not.
func (f *FS) Xattrs(n *Node) ([]Xattr, error) {
	if n.Attrs == nil && n.AttrBlock == 0 {
		return nil, nil
	}
	attrs, err := f.attrs(n)
	if err != nil {
		return nil, fmt.Errorf("inode %d: %w", n.Ino, err)
	}
	var out []Xattr
	for i := range attrs {
		a := &attrs[i]
		name, visible := a.FullName()
		if !visible {
			continue
		}
		value, err := f.attrValue(n, a)
		if err == nil && a.IsACL() {
			value, err = ext4.ACLXattr(value)
		}
		if err != nil {
			return nil, fmt.Errorf("inode %d: attribute %s: %w", n.Ino, name, err)
		}
		out = append(out, Xattr{name, value})
	}
	return out, nil
}

// attrs decodes both places.
func (f *FS) attrs(n *Node) (all []ext4.Attr, err error) {
	if n.Attrs != nil {
		if all, err = f.sb.DecodeInodeAttrs(n.Attrs); err != nil {
			return nil, err
		}
	}
	if n.AttrBlock == 0 {
		return all, nil
	}
	b, err := f.block(n.AttrBlock)
	if err != nil {
		return nil, err
	}
	more, err := f.sb.DecodeAttrBlock(b, n.AttrBlock)
	return append(all, more...), err
}

// attrValue returns an attribute's value, which may have an inode of its own.
func (f *FS) attrValue(owner *Node, a *ext4.Attr) ([]byte, error) {
	if a.Inode == 0 {
		return a.Value, nil
	}
	if a.Inode == owner.Ino {
		return nil, errs.E(errs.Corrupt, "its value is in the inode that it belongs to")
	}
	n, err := f.Inode(a.Inode)
	if err != nil {
		return nil, err
	}
	if n.Flags&ext4.FlagEAInode == 0 || n.Flags&ext4.FlagInline != 0 || n.Size != int64(a.Size) {
		return nil, errs.E(errs.Corrupt, "inode %d is none with a value of %d bytes", n.Ino, a.Size)
	}
	value := make([]byte, a.Size) // at most ext4.MaxAttr
	file, err := f.open(n)
	if err != nil {
		return nil, err
	}
	if len(value) > 0 {
		if _, err := file.ReadAt(value, 0); err != nil {
			return nil, err
		}
	}
	return value, f.sb.CheckAttrInode(a, n, value)
}

// Readlink returns a symbolic link's target.
func (f *FS) Readlink(n *Node) (string, error) {
	switch {
	case n.Mode.Type() != ext4.TypeSymlink:
		return "", errs.E(errs.Usage, "inode %d is no symbolic link", n.Ino)
	case n.Flags&ext4.FlagEncrypt != 0:
		return "", errEncrypted(n)
	case n.Size == 0 || n.Size > int64(f.sb.BlockSize):
		return "", errs.E(errs.Corrupt, "inode %d: symbolic link to %d bytes", n.Ino, n.Size)
	}
	target := make([]byte, n.Size)
	if f.isFast(n) {
		copy(target, n.Block[:])
	} else {
		file, err := f.open(n)
		if err != nil {
			return "", err
		}
		if _, err := file.ReadAt(target, 0); err != nil {
			return "", err
		}
	}
	for i, c := range target {
		if c == 0 {
			return "", errs.E(errs.Corrupt, "inode %d: symbolic link to %q", n.Ino, target[:i+1])
		}
	}
	return string(target), nil
}

// isFast tells whether a link's target is in the inode, in the kernel's way:
// such links take no blocks but one for attributes.
func (f *FS) isFast(n *Node) bool {
	if n.Flags&ext4.FlagInline != 0 || n.Size >= ext4.BlockBytes {
		return false
	}
	if f.sb.Incompat&ext4.IncompatEAInode != 0 {
		return true // attributes' inodes are counted as well
	}
	var attrs uint64
	if n.AttrBlock != 0 {
		attrs = uint64(f.sb.ClusterSize / 512)
	}
	return n.Sectors == attrs
}
