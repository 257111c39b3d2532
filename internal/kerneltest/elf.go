package kerneltest

import (
	"bytes"
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// libraryDirs are where Debian's dynamic linker looks on amd64.
var libraryDirs = []string{
	"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib",
}

// libraries returns the paths of the shared libraries that a program needs,
// its interpreter and its libraries' libraries included.
func libraries(program string) ([]string, error) {
	var found []string
	seen := map[string]bool{}
	queue := []string{program}
	for len(queue) > 0 {
		names, interp, err := needed(queue[0])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", queue[0], err)
		}
		queue = queue[1:]
		if interp != "" && !seen[interp] {
			seen[interp] = true
			found = append(found, interp)
		}
		for _, name := range names {
			if seen[name] {
				continue
			}
			seen[name] = true
			path, err := findLibrary(name)
			if err != nil {
				return nil, err
			}
			found = append(found, path)
			queue = append(queue, path)
		}
	}
	return found, nil
}

// needed reads DT_NEEDED and the interpreter of an ELF file.
func needed(path string) (names []string, interp string, err error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	if s := f.Section(".interp"); s != nil {
		text, err := s.Data()
		if err != nil {
			return nil, "", err
		}
		interp = string(bytes.TrimRight(text, "\x00"))
	}
	names, err = f.ImportedLibraries()
	return names, interp, err
}

func findLibrary(name string) (string, error) {
	for _, dir := range libraryDirs {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("library %s is in none of %s", name, strings.Join(libraryDirs, ", "))
}

// moduleOrder returns the wanted kernel modules and those that they depend
// on, in an order in which they can be loaded. Modules are named as modinfo
// names them, with underscores. Wanted modules that are not there are taken
// to be built into the kernel.
func moduleOrder(modules map[string][]byte, wanted []string) ([]string, error) {
	var order []string
	seen := map[string]bool{}
	var visit func(name string) error
	visit = func(name string) error {
		text, ok := modules[name]
		if seen[name] || !ok {
			return nil
		}
		seen[name] = true
		deps, err := moduleDepends(text)
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		for _, d := range deps {
			if err := visit(moduleName(d)); err != nil {
				return err
			}
		}
		order = append(order, name)
		return nil
	}
	for _, name := range wanted {
		if err := visit(moduleName(name)); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// moduleName turns a file name or a name with hyphens into modinfo's form.
func moduleName(path string) string {
	return strings.ReplaceAll(strings.TrimSuffix(filepath.Base(path), ".ko"), "-", "_")
}

// moduleDepends reads "depends=a,b" (and soft dependencies that must come
// first) from a module's .modinfo section.
func moduleDepends(text []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("no .modinfo section")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	var deps []string
	for _, entry := range strings.Split(string(info), "\x00") {
		if list, ok := strings.CutPrefix(entry, "depends="); ok && list != "" {
			deps = append(deps, strings.Split(list, ",")...)
		}
		if list, ok := strings.CutPrefix(entry, "softdep=pre: "); ok {
			deps = append(deps, strings.Fields(list)...)
		}
	}
	return deps, nil
}
