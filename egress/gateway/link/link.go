// Package link is an Ethernet link over a socket, as a gVisor netstack sees it:
// each datagram is one frame. It looks at no frame itself; whoever attaches a
// stack says what comes in.
package link

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// socketBuffer is how much of each direction the kernel may hold, in bytes.
const socketBuffer = 4 << 20

// writeWait is how long a frame waits for room before it is dropped, as a wire
// does it: TCP sends it again.
const writeWait = 20 * time.Millisecond

// Pair returns the two ends of a new link. Both belong to the caller.
func Pair() (a, b *os.File, err error) {
	syscall.ForkLock.RLock() // macOS has no flag that closes them on exec
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	for _, fd := range fds {
		if err == nil {
			unix.CloseOnExec(fd)
		}
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	for _, fd := range fds {
		// Less than asked for is no failure: the link is only slower.
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, socketBuffer)
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, socketBuffer)
	}
	return os.NewFile(uintptr(fds[0]), "link"), os.NewFile(uintptr(fds[1]), "link"), nil
}

// An Endpoint is one end of a link, for one stack. It may be used concurrently.
type Endpoint struct {
	conn    *net.UnixConn
	raw     syscall.RawConn // of conn
	addr    tcpip.LinkAddress
	mtu     uint32
	accept  func(frame []byte) bool
	dropped atomic.Int64 // frames that found no room

	mu         sync.RWMutex
	dispatcher stack.NetworkDispatcher // guarded by mu
	onClose    func()                  // guarded by mu
}

var _ stack.LinkEndpoint = (*Endpoint)(nil)

// New returns the end of a link that socket is, which it takes over also when it
// fails. accept says of each frame that comes in, while nothing else is read,
// whether the stack gets it.
func New(socket *os.File, mac net.HardwareAddr, mtu int, accept func(frame []byte) bool) (*Endpoint, error) {
	defer socket.Close()
	c, err := net.FileConn(socket)
	if err != nil {
		return nil, err
	}
	conn, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("a link is a unix socket, not a %T", c)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &Endpoint{conn: conn, raw: raw, addr: tcpip.LinkAddress(mac), mtu: uint32(mtu), accept: accept}, nil
}

// Serve reads frames until the link is closed, and returns why it ended.
func (e *Endpoint) Serve() error {
	most := int(e.mtu) + header.EthernetMinimumSize
	for {
		frame := buffer.NewViewSize(most + 1) // one more, to see that a frame is too long
		n, err := e.conn.Read(frame.AsSlice())
		if err != nil {
			frame.Release()
			return err
		}
		if n > most || !e.accept(frame.AsSlice()[:n]) {
			frame.Release()
			continue
		}
		frame.CapLength(n)
		e.deliver(frame)
	}
}

// deliver hands a frame to the stack, which has it from then on.
func (e *Endpoint) deliver(frame *buffer.View) {
	e.mu.RLock()
	d := e.dispatcher
	e.mu.RUnlock()
	if d == nil {
		frame.Release()
		return
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithView(frame)})
	defer pkt.DecRef()
	if e.ParseHeader(pkt) {
		d.DeliverNetworkPacket(header.Ethernet(pkt.LinkHeader().Slice()).Type(), pkt)
	}
}

// WritePackets sends frames. Those that find no room in time are dropped.
func (e *Endpoint) WritePackets(list stack.PacketBufferList) (int, tcpip.Error) {
	sent := 0
	for _, pkt := range list.AsSlice() {
		if e.write(pkt.AsSlices()) {
			sent++
		}
	}
	if sent == 0 && list.Len() > 0 {
		return 0, &tcpip.ErrNoBufferSpace{}
	}
	return sent, nil
}

// write sends a frame that is in pieces. It does not wait where there is room,
// which is nearly always; a deadline would cost more than the frame.
func (e *Endpoint) write(pieces [][]byte) bool {
	var err error
	try := func(fd uintptr) bool {
		_, err = unix.Writev(int(fd), pieces)
		return true
	}
	if closed := e.raw.Write(try); closed != nil {
		return false
	}
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOBUFS) {
		_ = e.conn.SetWriteDeadline(time.Now().Add(writeWait))
		_, err = e.conn.Write(bytes.Join(pieces, nil))
		_ = e.conn.SetWriteDeadline(time.Time{}) // one that has passed would end the next write before it begins
	}
	if err != nil {
		e.dropped.Add(1)
	}
	return err == nil
}

// Dropped returns how many frames to the other end were dropped.
func (e *Endpoint) Dropped() int64 { return e.dropped.Load() }

// Close ends the link; Serve returns.
func (e *Endpoint) Close() {
	e.conn.Close()
	e.mu.Lock()
	f := e.onClose
	e.onClose = nil
	e.mu.Unlock()
	if f != nil {
		f()
	}
}

// Attach gives the endpoint its stack.
func (e *Endpoint) Attach(d stack.NetworkDispatcher) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.dispatcher = d
}

// IsAttached reports whether there is a stack.
func (e *Endpoint) IsAttached() bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.dispatcher != nil
}

// MTU returns the largest packet, in bytes, without its Ethernet header.
func (e *Endpoint) MTU() uint32 { return e.mtu }

// SetMTU does nothing: the MTU is the link's.
func (e *Endpoint) SetMTU(uint32) {}

// MaxHeaderLength returns the length of an Ethernet header.
func (e *Endpoint) MaxHeaderLength() uint16 { return header.EthernetMinimumSize }

// LinkAddress returns the MAC address.
func (e *Endpoint) LinkAddress() tcpip.LinkAddress { return e.addr }

// SetLinkAddress does nothing: the address is the link's.
func (e *Endpoint) SetLinkAddress(tcpip.LinkAddress) {}

// Capabilities says that checksums need no check: the socket is not a wire, and
// a sender that gets its own wrong harms only itself.
func (e *Endpoint) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityRXChecksumOffload | stack.CapabilityResolutionRequired
}

// Wait does nothing: Serve is its caller's.
func (e *Endpoint) Wait() {}

// ARPHardwareType returns Ethernet's.
func (e *Endpoint) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }

// AddHeader writes the Ethernet header of a packet.
func (e *Endpoint) AddHeader(pkt *stack.PacketBuffer) {
	header.Ethernet(pkt.LinkHeader().Push(header.EthernetMinimumSize)).Encode(&header.EthernetFields{
		SrcAddr: pkt.EgressRoute.LocalLinkAddress, DstAddr: pkt.EgressRoute.RemoteLinkAddress, Type: pkt.NetworkProtocolNumber,
	})
}

// ParseHeader takes the Ethernet header off a packet.
func (e *Endpoint) ParseHeader(pkt *stack.PacketBuffer) bool {
	_, ok := pkt.LinkHeader().Consume(header.EthernetMinimumSize)
	return ok
}

// SetOnCloseAction sets what Close does besides.
func (e *Endpoint) SetOnCloseAction(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.onClose = f
}
