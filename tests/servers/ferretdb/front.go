package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"
)

const (
	headerLength = 16
	// What FerretDB announces as maxMessageSizeBytes.
	maxMessageLength = 48_000_000
	// A buffer that grew beyond this for one message is not kept for the next.
	keptBuffer = 1 << 20

	// A message that takes FerretDB longer, while all others wait, is told of.
	slow = time.Second
	// So much of it.
	shown = 400

	opReply = 1
	opQuery = 2004
	opMsg   = 2013
	// The sender of a message with this flag does not wait for a reply.
	moreToCome = 1 << 1
)

// front stands before FerretDB and gives it one message at a time, over all connections. FerretDB reads and writes a
// document in two steps, so that two updates at once lose one of them; MongoDB's are atomic, and so are these.
//
// Each client's connection has one of its own to FerretDB, which keeps cursors and sessions apart.
type front struct {
	listener net.Listener
	backend  string

	// Held from the first byte that FerretDB gets of a message to the last byte of its reply.
	turn sync.Mutex

	lock        sync.Mutex
	connections map[net.Conn]struct{}
	closed      bool
}

// run accepts clients until the listener is closed.
func (f *front) run(ctx context.Context) {
	for {
		client, err := f.listener.Accept()
		if err != nil {
			if ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
				slog.Warn("accepting a client", "error", err)
				continue
			}
			return
		}
		go f.serve(client)
	}
}

// close ends the listener and all connections.
func (f *front) close() {
	_ = f.listener.Close()
	f.lock.Lock()
	defer f.lock.Unlock()
	f.closed = true
	for connection := range f.connections {
		_ = connection.Close()
	}
}

// serve forwards for one client until either side is gone or says something that is no message.
func (f *front) serve(client net.Conn) {
	defer client.Close()
	backend, err := net.Dial("unix", f.backend)
	if err != nil {
		slog.Warn("connecting to FerretDB", "error", err)
		return
	}
	defer backend.Close()
	if !f.keep(client, backend) {
		return
	}
	defer f.forget(client, backend)

	fromClient, fromBackend := bufio.NewReaderSize(client, 64<<10), bufio.NewReaderSize(backend, 64<<10)
	var request, reply []byte
	for {
		// The whole request first: a client that is slow, or gone in the middle, holds up nobody.
		request, err = readMessage(fromClient, request)
		if err == nil {
			reply, err = f.exchange(backend, fromBackend, request, reply)
		}
		if err == nil && repliesTo(request) {
			_, err = client.Write(reply)
		}
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				slog.Warn("a connection ends", "client", client.RemoteAddr(), "error", err)
			}
			return
		}
		request, reply = trim(request), trim(reply)
	}
}

// exchange gives FerretDB a message and takes its reply. FerretDB replies to every message, also to those whose sender
// does not wait for one.
func (f *front) exchange(backend net.Conn, from *bufio.Reader, request, reply []byte) ([]byte, error) {
	f.turn.Lock()
	defer f.turn.Unlock()
	begun := time.Now()
	defer func() {
		if took := time.Since(begun); took > slow {
			slog.Warn("a slow message", "took", took, "bytes", len(request), "begins", beginning(request))
		}
	}()
	if _, err := backend.Write(request); err != nil {
		return nil, fmt.Errorf("to FerretDB: %w", err)
	}
	reply, err := readMessage(from, reply)
	if err != nil {
		return nil, fmt.Errorf("from FerretDB: %w", err)
	}
	return reply, nil
}

func (f *front) keep(connections ...net.Conn) bool {
	f.lock.Lock()
	defer f.lock.Unlock()
	if f.connections == nil {
		f.connections = make(map[net.Conn]struct{})
	}
	for _, connection := range connections {
		f.connections[connection] = struct{}{}
	}
	return !f.closed
}

func (f *front) forget(connections ...net.Conn) {
	f.lock.Lock()
	defer f.lock.Unlock()
	for _, connection := range connections {
		delete(f.connections, connection)
	}
}

// readMessage reads one message into the buffer, which it grows where it has to. io.EOF: there is none any more.
func readMessage(from *bufio.Reader, buffer []byte) ([]byte, error) {
	header, err := from.Peek(headerLength)
	if err != nil {
		if errors.Is(err, io.EOF) && len(header) > 0 {
			return nil, io.ErrUnexpectedEOF
		}
		return nil, err
	}
	length := int(int32(binary.LittleEndian.Uint32(header)))
	code := binary.LittleEndian.Uint32(header[12:])
	if length < headerLength || length > maxMessageLength {
		return nil, fmt.Errorf("a message of %d bytes", length)
	}
	if code != opMsg && code != opQuery && code != opReply {
		return nil, fmt.Errorf("a message of kind %d, which FerretDB does not know", code)
	}
	if cap(buffer) < length {
		buffer = make([]byte, length)
	}
	buffer = buffer[:length]
	_, err = io.ReadFull(from, buffer)
	return buffer, err
}

// repliesTo tells whether the sender of a message waits for a reply.
func repliesTo(message []byte) bool {
	if binary.LittleEndian.Uint32(message[12:]) != opMsg || len(message) < headerLength+4 {
		return true
	}
	return binary.LittleEndian.Uint32(message[headerLength:])&moreToCome == 0
}

// beginning is what a message begins with: the command, the collection, and most of a filter.
func beginning(message []byte) string {
	return string(message[min(headerLength, len(message)):min(headerLength+shown, len(message))])
}

func trim(buffer []byte) []byte {
	if cap(buffer) > keptBuffer {
		return nil
	}
	return buffer
}
