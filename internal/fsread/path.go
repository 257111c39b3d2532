package fsread

import (
	"fmt"
	"strings"

	"cowl/internal/errs"
	"cowl/internal/format/ext4"
)

const (
	maxLinks = 40      // symbolic links in one path, as in the kernel
	maxPath  = 1 << 16 // bytes of a path, links followed
)

// Lookup returns the node at a path, which begins at the file system's root
// whether or not it begins with a slash. Symbolic links on the way are
// followed within the file system, the last one if follow is set. ".." is the
// directory one came from, and the root's is the root.
func (f *FS) Lookup(path string, follow bool) (*Node, error) {
	n, err := f.walkPath(path, follow)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return n, nil
}

// walkPath follows a path name by name. The stack holds the way back.
func (f *FS) walkPath(path string, follow bool) (*Node, error) {
	root, err := f.Inode(ext4.RootInode)
	if err != nil {
		return nil, err
	}
	stack := []*Node{root}
	links := 0
	for rest := path; ; {
		n := stack[len(stack)-1]
		if rest == "" {
			return n, nil
		}
		if n.Mode.Type() != ext4.TypeDir { // also before a slash that ends the path
			return nil, errs.E(errs.NotFound, "not a directory")
		}
		if rest = strings.TrimLeft(rest, "/"); rest == "" {
			return n, nil
		}
		var name string
		name, rest = cutName(rest)
		if name == "." {
			continue
		}
		if name == ".." {
			stack = stack[:max(1, len(stack)-1)]
			continue
		}
		ino, err := f.find(n, name)
		if err == nil {
			n, err = f.Inode(ino)
		}
		if err != nil {
			return nil, err
		}
		if n.Mode.Type() != ext4.TypeSymlink || rest == "" && !follow {
			stack = append(stack, n)
			continue
		}
		target, err := f.Readlink(n)
		if err != nil {
			return nil, err
		}
		if links++; links > maxLinks || len(target)+len(rest) > maxPath {
			return nil, errs.E(errs.Conflict, "too many symbolic links")
		}
		if strings.HasPrefix(target, "/") {
			stack = stack[:1]
		}
		rest = target + rest
	}
}

// cutName cuts the first name off a path. What is left keeps its slash, which
// says that the name must be a directory's.
func cutName(path string) (name, rest string) {
	if i := strings.IndexByte(path, '/'); i >= 0 {
		return path[:i], path[i:]
	}
	return path, ""
}
