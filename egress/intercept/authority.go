package intercept

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"sync"
	"time"
)

const (
	authorityLife = 365 * 24 * time.Hour
	leafLife      = 30 * 24 * time.Hour
	mostLeaves    = 256
	clockSkew     = 24 * time.Hour // a box's clock may be behind
)

// An Authority is the certificate authority of one box. Its key is in this
// process's memory and nowhere else; nobody but this box trusts it.
type Authority struct {
	cert *x509.Certificate
	der  []byte
	key  *ecdsa.PrivateKey
	leaf *ecdsa.PrivateKey // of all its leaves: they are the same party's

	mu     sync.Mutex
	leaves map[string]*tls.Certificate // guarded by mu; by name
}

// NewAuthority returns an authority whose certificate names what it is for.
func NewAuthority(name string) (*Authority, error) {
	a := &Authority{leaves: map[string]*tls.Certificate{}}
	var err error
	for _, k := range []**ecdsa.PrivateKey{&a.key, &a.leaf} {
		if *k, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return nil, err
		}
	}
	t := template(name, authorityLife)
	t.IsCA, t.BasicConstraintsValid, t.MaxPathLenZero = true, true, true
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	if a.der, err = x509.CreateCertificate(rand.Reader, t, t, a.key.Public(), a.key); err != nil {
		return nil, err
	}
	a.cert, err = x509.ParseCertificate(a.der)
	return a, err
}

func template(name string, life time.Duration) *x509.Certificate {
	serial := make([]byte, 16)
	rand.Read(serial)
	serial[0] &= 0x7f
	return &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial),
		Subject:      pkix.Name{CommonName: name, Organization: []string{"boxlite-mcp"}},
		NotBefore:    time.Now().Add(-clockSkew), NotAfter: time.Now().Add(life),
	}
}

// PEM returns the authority's certificate.
func (a *Authority) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.der})
}

// Expires returns when the authority's certificate does.
func (a *Authority) Expires() time.Time { return a.cert.NotAfter }

// certificate returns a certificate for a canonical name.
func (a *Authority) certificate(name string) (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.leaves[name]; c != nil && time.Until(c.Leaf.NotAfter) > leafLife/2 {
		return c, nil
	}
	if len(a.leaves) >= mostLeaves {
		for old := range a.leaves { // any: to make another costs a signature
			delete(a.leaves, old)
			break
		}
	}
	common := name
	if len(common) > 64 { // the most that X.509 has room for; the name that counts is below
		common = common[:64]
	}
	t := template(common, leafLife)
	t.DNSNames = []string{name}
	t.KeyUsage, t.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, a.leaf.Public(), a.key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	c := &tls.Certificate{Certificate: [][]byte{der, a.der}, PrivateKey: a.leaf, Leaf: leaf}
	a.leaves[name] = c
	return c, nil
}
