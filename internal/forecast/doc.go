// Package forecast computes what a snapshot of a volume will need: from which
// chunks writes touched while the volume was watched, how many they will touch
// in the time that a backup takes, and so which size of COW store and of chunk
// to give it; and from how a store filled so far, when it will be full.
//
// What counts is not how much is written but how many different chunks: what
// is written again costs a snapshot nothing. That number depends on the chunk's
// size and grows ever slower with time, so neither can be computed from a write
// rate. It is measured instead: a Recorder knows the distinct chunks of each
// size in windows of 1, 2, 4, 8, ... slots of time, for as long as the volume
// has been watched, and a Pattern is what it learnt.
//
// The package does no I/O and reads no clock. Whoever owns a Recorder tells it
// when a slot is over; whoever has a Pattern keeps it where it likes.
//
// # How writes are recorded
//
// The volume is seen in regions of 512 KiB, each with one bit for each 4 KiB
// in it, so that one record answers for all chunk sizes from 4 KiB to 512 KiB.
// Up to a few thousand regions are recorded exactly. If more are touched in a
// window, those whose number has a small hash are kept, as many as there is
// room for, and stand for all: a sample of the touched regions that is
// uniform whatever the pattern, with an error that is known (bottom-k
// sampling). Two windows are joined by joining their records.
//
// # Locks
//
// Recorder.mu is held over arithmetic only, and never waited for by a write.
package forecast
