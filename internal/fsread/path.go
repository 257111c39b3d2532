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

func (f *FS) walkPath(path string, follow bool) (*Node, error) {
	root, err := f.Inode(ext4.RootInode)
	if err != nil {
		return nil, err
	}
	return Resolve(f.names(), root, path, follow)
}

func (f *FS) names() Names[*Node] {
	return Names[*Node]{
		Type: func(n *Node) ext4.Mode { return n.Mode.Type() },
		Find: func(dir *Node, name string) (*Node, error) {
			ino, err := f.find(dir, name)
			if err != nil {
				return nil, err
			}
			return f.Inode(ino)
		},
		Readlink: f.Readlink,
	}
}

// Names is what Resolve has to know of whatever has directories. A name that is not
// there is an error of kind errs.NotFound.
type Names[N any] struct {
	Type     func(N) ext4.Mode
	Find     func(dir N, name string) (N, error)
	Readlink func(N) (string, error)
}

// Resolve follows a path from the root name by name, as FS.Lookup does.
func Resolve[N any](in Names[N], root N, path string, follow bool) (none N, err error) {
	stack := []N{root} // the way back
	links := 0
	for rest := path; ; {
		n := stack[len(stack)-1]
		if rest == "" {
			return n, nil
		}
		if in.Type(n) != ext4.TypeDir { // also before a slash that ends the path
			return none, errs.E(errs.NotFound, "not a directory")
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
		n, err := in.Find(n, name)
		if err != nil {
			return none, err
		}
		if in.Type(n) != ext4.TypeSymlink || rest == "" && !follow {
			stack = append(stack, n)
			continue
		}
		target, err := in.Readlink(n)
		if err != nil {
			return none, err
		}
		if links++; links > maxLinks || len(target)+len(rest) > maxPath {
			return none, errs.E(errs.Conflict, "too many symbolic links")
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
