//! Layers: every part decrypted and decoded, every full image in it compared with its CRC-32.

use std::collections::BTreeSet;

use super::{Meter, VerifyReport};
use crate::delta::Decoder;
use crate::error::{DamageKind, Error, Result};
use crate::format::event::LayerRecord;
use crate::format::part::PartRef;
use crate::layer::{BlockBuffers, LayerReader, PageEntry, PartReader};
use crate::names::{layer_path, part_path};
use crate::past::NodeContext;
use crate::types::{FileId, PageId};

/// The bytes of all layers and of the parts that they name.
pub(super) fn bytes(context: &NodeContext, report: &mut VerifyReport) -> Result<u64> {
    let mut total = 0;
    let mut seen = BTreeSet::new();
    for record in &context.record.layers {
        total += record.length;
        match LayerReader::open(context.storage.as_ref(), &context.keys, record) {
            Ok(body) => {
                total += body
                    .parts
                    .iter()
                    .filter(|p| seen.insert(p.file))
                    .map(|p| p.length)
                    .sum::<u64>();
            }
            Err(e) => report.found(Err(e))?,
        }
    }
    Ok(total)
}

/// Verifies every layer of a node, and every part once, however many layers share it.
pub(super) fn verify_layers(
    context: &NodeContext,
    report: &mut VerifyReport,
    meter: &mut Meter<'_>,
) -> Result<()> {
    let mut seen = BTreeSet::new();
    for record in &context.record.layers {
        report.layers += 1;
        let checked = verify_layer(context, record, &mut seen, report, meter);
        report.found(checked)?;
    }
    Ok(())
}

fn verify_layer(
    context: &NodeContext,
    record: &LayerRecord,
    seen: &mut BTreeSet<FileId>,
    report: &mut VerifyReport,
    meter: &mut Meter<'_>,
) -> Result<()> {
    let storage = context.storage.as_ref();
    super::checksums_of(storage, &layer_path(context.node, record.file), report, meter)?;
    let body = LayerReader::open(storage, &context.keys, record)?;
    for part in &body.parts {
        if seen.insert(part.file) {
            report.parts += 1;
            super::checksums_of(storage, &part_path(context.node, part.file), report, meter)?;
            let checked = verify_part(context, part, report, meter);
            report.found(checked)?;
        }
    }
    Ok(())
}

fn verify_part(
    context: &NodeContext,
    part: &PartRef,
    report: &mut VerifyReport,
    meter: &mut Meter<'_>,
) -> Result<()> {
    let reader = PartReader::open(context.storage.as_ref(), &context.keys, context.node, part)?;
    let mut decoder = Decoder::new()?;
    let mut buffers = BlockBuffers::default();
    let zero = vec![0; reader.seal().page_size.bytes()];
    for block in &reader.seal().blocks {
        meter.add(0)?;
        let pages = &mut report.layer_pages;
        let everything = (0, u64::MAX);
        let visited = reader.visit(
            block,
            everything,
            &mut buffers,
            &mut decoder,
            &mut |number, crc, entry| {
                let image = match entry {
                    PageEntry::Zero => zero.as_slice(),
                    PageEntry::Full(image) => image,
                    // A patch alone is no page: rebuilding states proves it.
                    PageEntry::Patch(_) => return Ok(()),
                };
                *pages += 1;
                let found = crc32fast::hash(image);
                if found == crc {
                    return Ok(());
                }
                let expected =
                    format_args!("CRC-32 {crc:08x} of {}", PageId::new(part.space, number));
                let found = format_args!("{found:08x}");
                Err(Error::damage(
                    DamageKind::PageImage,
                    reader.path(),
                    block.offset,
                    "page image",
                    expected,
                    found,
                ))
            },
        );
        report.found(visited.map(drop))?;
    }
    Ok(())
}
