// Package fstree makes trees and file systems that readers of them get wrong,
// and records what the kernel sees of a tree, so that another reader's view
// can be compared with it entry by entry. For tests only.
package fstree
