// certs FOLDER < names.json: a CA, one certificate for each name, and the key that service account tokens are signed with.
// Elliptic keys throughout: making them costs milliseconds, so that every rig has its own.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

type name struct {
	File string   `json:"file"`
	CN   string   `json:"cn"`
	Org  []string `json:"org"`
	DNS  []string `json:"dns"`
	IPs  []string `json:"ips"`
}

func main() {
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(folder string) error {
	var names []name
	if err := json.NewDecoder(os.Stdin).Decode(&names); err != nil {
		return err
	}
	ca, caKey, err := authority(folder)
	if err != nil {
		return err
	}
	for _, item := range names {
		key, err := newKey(filepath.Join(folder, item.File+".key"))
		if err != nil {
			return err
		}
		leaf := template(item.CN)
		leaf.Subject.Organization = item.Org
		leaf.KeyUsage = x509.KeyUsageDigitalSignature
		leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		leaf.DNSNames = item.DNS
		for _, text := range item.IPs {
			leaf.IPAddresses = append(leaf.IPAddresses, net.ParseIP(text))
		}
		if err := write(filepath.Join(folder, item.File+".crt"), leaf, ca, key, caKey); err != nil {
			return err
		}
	}
	return nil
}

// authority reads the CA, or makes it at the first call.
func authority(folder string) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	certPath, keyPath := filepath.Join(folder, "ca.crt"), filepath.Join(folder, "ca.key")
	certText, err := os.ReadFile(certPath)
	if err == nil {
		keyText, err := os.ReadFile(keyPath)
		if err != nil {
			return nil, nil, err
		}
		certBlock, _ := pem.Decode(certText)
		keyBlock, _ := pem.Decode(keyText)
		if certBlock == nil || keyBlock == nil {
			return nil, nil, fmt.Errorf("%s and %s are no certificate and key", certPath, keyPath)
		}
		cert, err := x509.ParseCertificate(certBlock.Bytes)
		if err != nil {
			return nil, nil, err
		}
		key, err := x509.ParseECPrivateKey(keyBlock.Bytes)
		return cert, key, err
	}
	if !os.IsNotExist(err) {
		return nil, nil, err
	}
	key, err := newKey(keyPath)
	if err != nil {
		return nil, nil, err
	}
	if _, err := newKey(filepath.Join(folder, "sa.key")); err != nil {
		return nil, nil, err
	}
	ca := template("rig-ca")
	ca.IsCA, ca.BasicConstraintsValid = true, true
	ca.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	return ca, key, write(certPath, ca, ca, key, key)
}

func template(cn string) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic(err)
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: cn},
		NotBefore:    now.Add(-time.Hour), // clocks that were set back meanwhile
		NotAfter:     now.Add(30 * 24 * time.Hour),
	}
}

func newKey(path string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	data, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: data}), 0o600)
}

func write(path string, leaf, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) error {
	data, err := x509.CreateCertificate(rand.Reader, leaf, parent, &key.PublicKey, signer)
	if err != nil {
		return err
	}
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: data}), 0o644)
}
