// Package killed holds tests of what is left when the process that serves a
// group is killed in the middle of writes, and of file systems that are full
// under its physical volumes. It runs the program.
package killed
