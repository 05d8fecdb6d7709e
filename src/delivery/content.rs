//! What a next hop gets of a message: the octets after the envelope, changed only where that hop can't take them as they
//! are, or takes no other sender.
//!
//! Promises: without such a reason not an octet is changed, so that signatures hold; memory stays flat but for one header.
//! What a hop can't be given at all is the [`Outcome`] that means for the mail; an error of the disk is an `io::Error`.

use std::io::{self, Read};

use crate::config::Config;
use crate::limits;
use crate::mail::address::{Address, ReversePath};
use crate::mail::envelope::Recipient;
use crate::mail::outcome::{Cause, Outcome};
use crate::mail::parameter::{Body, MailParameters};
use crate::mail::reply::Enhanced;
use crate::mail::rewrite;
use crate::mail::seven_bit::{Plan, Rewriter, Survey, Verdict};
use crate::relay::{Content, Offers};
use crate::spool::{Entry, Exit};

/// One message on its way to one hop.
#[derive(Debug)]
pub struct Outgoing<'e> {
    entry: &'e mut Entry,
    /// What takes it out of the queue, where nothing is left to do once this hop has it.
    pub exit: Option<Exit<'e>>,
    /// Another header, and how many octets of the message it takes the place of.
    header: Option<(Vec<u8>, u64)>,
    /// How the message becomes one of 7 bits.
    conversion: Option<Plan>,
    /// Its octets, where they are not those of header and rest.
    converted_size: Option<u64>,
    survey: Option<Verdict>,
}

impl<'e> Outgoing<'e> {
    /// The message as it came.
    pub fn new(entry: &'e mut Entry) -> Outgoing<'e> {
        Outgoing { entry, exit: None, header: None, conversion: None, converted_size: None, survey: None }
    }

    /// Writes `sender` where a local address stands as the author, for a smarthost that takes no other.
    pub fn rewrite_sender(&mut self, sender: &Address, config: &Config) -> io::Result<()> {
        let old = self.entry.header()?;
        let is_local = |address: &Address| address.domain().is_some_and(|domain| config.is_local(domain));
        self.header =
            rewrite::rewrite_from(&old, sender, is_local, config.first_domain()).map(|new| (new, old.len() as u64));
        Ok(())
    }

    /// What is said of the message to a hop that offers this, or why it can't be sent there. `as_it_is`: the hop takes
    /// 8-bit text without saying so.
    pub fn fit(
        &mut self,
        asked: &Asked<'_>,
        offers: &Offers,
        as_it_is: bool,
    ) -> io::Result<Result<MailParameters, Outcome>> {
        let mut parameters =
            MailParameters { size: None, smtputf8: self.needs_smtputf8(asked)?, ..asked.parameters.clone() };
        if parameters.smtputf8 && !offers.smtputf8 {
            let text = "an address or the header needs SMTPUTF8, which the next host does not speak";
            return Ok(Err(Outcome::Failed(Cause::local(Enhanced(5, 6, 7), text))));
        }
        if let Some(most) = offers.size.filter(|most| *most < self.size()) {
            let text = format!("the message has {} octets, and the next host takes {most} at most", self.size());
            return Ok(Err(Outcome::Failed(Cause::local(Enhanced(5, 3, 4), text))));
        }
        if offers.eight_bit_mime || as_it_is {
            if parameters.body.is_none() && !self.is_seven_bit()? {
                parameters.body = Some(Body::EightBitMime);
            }
            return Ok(Ok(parameters));
        }
        parameters.body = None;
        match self.survey()? {
            Verdict::SevenBit => {}
            Verdict::Impossible(why) => {
                let text = format!("the next host takes 7-bit text only, and the message can't be made such: {why}");
                return Ok(Err(Outcome::Failed(Cause::local(Enhanced(5, 6, 3), text))));
            }
            Verdict::Convertible(plan) => {
                self.conversion = Some(plan.clone());
                let size = io::copy(&mut self.reader()?, &mut io::sink())?;
                self.converted_size = Some(size);
            }
        }
        Ok(Ok(parameters))
    }

    /// Clients say SMTPUTF8 before they know whether it is needed (RFC 6531 §3.4), and an alias can lead to an address that
    /// needs it.
    fn needs_smtputf8(&mut self, asked: &Asked<'_>) -> io::Result<bool> {
        let is_ascii = |address: Option<&Address>| address.is_none_or(Address::is_ascii);
        if !is_ascii(asked.reverse_path.address())
            || !asked.recipients.iter().all(|recipient| is_ascii(Some(&recipient.address)))
        {
            return Ok(true);
        }
        Ok(asked.parameters.smtputf8 && !self.entry.header()?.is_ascii())
    }

    fn is_seven_bit(&mut self) -> io::Result<bool> {
        if let Some(verdict) = &self.survey {
            return Ok(*verdict == Verdict::SevenBit);
        }
        self.each_block(|block| block.is_ascii())
    }

    fn survey(&mut self) -> io::Result<&Verdict> {
        if self.survey.is_none() {
            let mut survey = Survey::new();
            self.each_block(|block| {
                survey.feed(block);
                true
            })?;
            self.survey = Some(survey.finish());
        }
        Ok(self.survey.as_ref().unwrap_or(&Verdict::SevenBit))
    }

    /// Shows each block of the message until `look` says no. Says whether it never did.
    fn each_block(&mut self, mut look: impl FnMut(&[u8]) -> bool) -> io::Result<bool> {
        let mut source = source(self.entry, self.header.as_ref())?;
        let mut block = vec![0; limits::MESSAGE_BUFFER];
        loop {
            match source.read(&mut block)? {
                0 => return Ok(true),
                count if look(&block[..count]) => {}
                _ => return Ok(false),
            }
        }
    }
}

impl Content for Outgoing<'_> {
    fn size(&self) -> u64 {
        let (new, old) = self.header.as_ref().map_or((0, 0), |(new, old)| (new.len() as u64, *old));
        self.converted_size.unwrap_or(self.entry.body_size() - old + new)
    }

    fn reader(&mut self) -> io::Result<Box<dyn Read + '_>> {
        let source = source(self.entry, self.header.as_ref())?;
        Ok(match &self.conversion {
            None => Box::new(source),
            Some(plan) => Box::new(Converted {
                source,
                rewriter: Some(Rewriter::new(plan)),
                block: vec![0; limits::MESSAGE_BUFFER],
                ready: Vec::new(),
                at: 0,
            }),
        })
    }

    fn taken(&mut self) {
        self.exit.iter_mut().for_each(Exit::take);
    }
}

/// What the session asks for the message.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// For MAIL.
    pub reverse_path: &'a ReversePath,
    /// For RCPT.
    pub recipients: &'a [Recipient],
    /// What the sender asked for.
    pub parameters: &'a MailParameters,
}

fn source<'a>(entry: &'a mut Entry, header: Option<&'a (Vec<u8>, u64)>) -> io::Result<impl Read + 'a> {
    let (new, skipped) = header.map_or((&[][..], 0), |(new, old)| (new.as_slice(), *old));
    Ok(new.chain(entry.body_after(skipped)?))
}

/// A message as a [`Rewriter`] gives it.
struct Converted<'p, R> {
    source: R,
    /// `None` once the last octet was read.
    rewriter: Option<Rewriter<'p>>,
    block: Vec<u8>,
    ready: Vec<u8>,
    at: usize,
}

impl<R: Read> Read for Converted<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.at == self.ready.len() {
            self.ready.clear();
            self.at = 0;
            let Some(mut rewriter) = self.rewriter.take() else { return Ok(0) };
            match self.source.read(&mut self.block)? {
                0 => rewriter.finish(&mut self.ready),
                count => {
                    rewriter.feed(&self.block[..count], &mut self.ready);
                    self.rewriter = Some(rewriter);
                }
            }
        }
        let count = out.len().min(self.ready.len() - self.at);
        out[..count].copy_from_slice(&self.ready[self.at..][..count]);
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const ALL: Offers = Offers {
        size: Some(u64::MAX),
        eight_bit_mime: true,
        pipelining: true,
        smtputf8: true,
        chunking: true,
        dsn: true,
        require_tls: true,
        logged_in: false,
    };

    /// What a hop that offers `offers` gets of `message`, or the code it fails with.
    fn sent(
        message: &str,
        parameters: &MailParameters,
        offers: Offers,
        as_it_is: bool,
    ) -> Result<(String, MailParameters), String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("entry");
        fs::write(&path, format!("X-Sender: <a@b.org>\r\nX-Receiver: <c@d.org>\r\n{message}")).unwrap();
        let mut entry = Entry::open(&path).unwrap();
        let envelope = entry.envelope.clone();
        let asked = Asked { reverse_path: &envelope.reverse_path, recipients: &envelope.recipients, parameters };
        let mut outgoing = Outgoing::new(&mut entry);
        match outgoing.fit(&asked, &offers, as_it_is).unwrap() {
            Err(Outcome::Failed(cause)) => Err(cause.reply.enhanced().unwrap().to_string()),
            Err(other) => panic!("{other:?}"),
            Ok(parameters) => {
                let mut text = String::new();
                outgoing.reader().unwrap().read_to_string(&mut text).unwrap();
                assert_eq!(text.len() as u64, outgoing.size());
                Ok((text, parameters))
            }
        }
    }

    #[test]
    fn nothing_is_changed_for_a_hop_that_takes_it() {
        let declared = MailParameters { body: Some(Body::EightBitMime), smtputf8: true, ..MailParameters::default() };
        let text = "Subject: plain\r\n\r\nstraße\r\n";
        let (got, parameters) = sent(text, &declared, ALL, false).unwrap();
        assert_eq!((got.as_str(), parameters.body, parameters.smtputf8), (text, Some(Body::EightBitMime), false));
        let (got, parameters) = sent(text, &MailParameters::default(), ALL, false).unwrap();
        assert_eq!((got.as_str(), parameters.body), (text, Some(Body::EightBitMime)), "nobody said so, but it is");
        let (_, parameters) = sent("\r\nplain\r\n", &MailParameters::default(), ALL, false).unwrap();
        assert_eq!(parameters.body, None);
    }

    #[test]
    fn a_hop_of_seven_bits_gets_seven_bits_or_nothing() {
        let old = Offers { eight_bit_mime: false, smtputf8: false, ..ALL };
        let text = "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nstraße\r\n";
        let (got, parameters) = sent(text, &MailParameters::default(), old, false).unwrap();
        assert!(got.is_ascii() && got.contains("stra=C3=9Fe"), "{got}");
        assert_eq!(parameters.body, None);
        let (got, _) = sent(text, &MailParameters::default(), old, true).unwrap();
        assert_eq!(got, text, "the configuration says that it takes it");
        let signed = format!("DKIM-Signature: v=1; d=b.org\r\n{text}");
        assert_eq!(sent(&signed, &MailParameters::default(), old, false).unwrap_err(), "5.6.3");
        let utf8 = MailParameters { smtputf8: true, ..MailParameters::default() };
        assert_eq!(sent("Subject: straße\r\n\r\nx\r\n", &utf8, old, false).unwrap_err(), "5.6.7");
        assert!(sent("Subject: plain\r\n\r\nx\r\n", &utf8, old, false).is_ok());
    }
}
