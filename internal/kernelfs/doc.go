// Package kernelfs has the kernel read file systems that package fsread does not
// know: XFS, and ext4 with features that are too new. They are mounted read-only
// where nobody else sees it. That takes Linux and root.
package kernelfs
