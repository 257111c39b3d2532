// Package demo tells cowl's whole story on real data, in a directory of its
// own and without root: a group in two files, an ext4 on a volume, a program
// that writes to it without pause, a snapshot, a backup, an accident, a
// restore, a rollback.
//
// Every command that it shows is run as shown, by executing this very
// program; every claim that it makes is checked, and the first one that does
// not hold ends the story with an error. What a shell could not show (the
// program under load, the accident) it does itself over NBD, and says so.
package demo
