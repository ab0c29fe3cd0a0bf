//! Parquet files whose row groups are encoded on several threads and written in order.
//!
//! For wide rows: a million 384-wide vectors take longer to encode than to make. The bytes depend on the rows, on where
//! the caller cuts row groups and steps, and on the contract; not on threads. Knows Arrow, Parquet's writer and locations.
//! Knows nothing of where the rows come from and starts no threads.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{
    ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, ArrowWriterOptions, compute_leaves,
};
use parquet::arrow::async_writer::AsyncFileWriter;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;

use crate::error::{Error, Kind, Result};
use crate::table::contract::Contract;
use crate::table::store::{Location, remove_folder};
use crate::table::write::{HashingWriter, StagedFile, unwritable, writer_properties};

/// Encodes row groups. Cheap to clone; several may be encoded at once.
#[derive(Clone)]
pub(crate) struct GroupEncoder {
    schema: SchemaRef,
    factory: Arc<ArrowRowGroupWriterFactory>,
}

/// A row group that belongs to no file yet.
pub(crate) struct EncodedGroup {
    rows: u64,
    chunks: Vec<ArrowColumnChunk>,
}

impl GroupEncoder {
    /// Encodes batches of the writer's schema as one row group; how they are cut is part of the bytes.
    pub(crate) fn encode(&self, batches: impl Iterator<Item = Result<RecordBatch>>) -> Result<EncodedGroup> {
        let broken = |e: ParquetError| Error::new(Kind::Internal, "cannot encode Parquet").source(e);
        let mut writers = self.factory.create_column_writers(0).map_err(broken)?;
        let mut rows = 0;
        for batch in batches {
            let batch = batch?;
            rows += batch.num_rows() as u64;
            let mut open = writers.iter_mut();
            for (field, column) in self.schema.fields().iter().zip(batch.columns()) {
                for leaf in compute_leaves(field, column).map_err(broken)? {
                    let Some(writer) = open.next() else {
                        return Err(Error::new(Kind::Internal, "a row group has more columns than its file"));
                    };
                    writer.write(&leaf).map_err(broken)?;
                }
            }
        }
        let chunks = writers.into_iter().map(ArrowColumnWriter::close).collect::<Result<_, _>>().map_err(broken)?;
        Ok(EncodedGroup { rows, chunks })
    }
}

struct OpenFile {
    location: Location,
    rows: u64,
    writer: SerializedFileWriter<Vec<u8>>,
    sink: HashingWriter,
}

/// Writes encoded row groups into one or more files.
pub(crate) struct GroupWriter {
    folder: Location,
    schema: SchemaRef,
    properties: WriterProperties,
    file_bytes: usize,
    encoder: GroupEncoder,
    open: Option<OpenFile>,
    files: Vec<StagedFile>,
}

impl GroupWriter {
    /// Files of `schema` in `folder`, encoded as the contract says. `schema` may differ from the contract's in the width of
    /// vectors.
    pub(crate) fn new(contract: &Contract, schema: SchemaRef, folder: Location) -> Result<Self> {
        let properties = writer_properties(contract, &schema, None)?;
        let (_, factory) = serialized(&schema, &properties).map_err(|e| unwritable(&e, &folder))?;
        let encoder = GroupEncoder { schema: schema.clone(), factory: Arc::new(factory) };
        let file_bytes = contract.writer.file_bytes;
        Ok(GroupWriter { folder, schema, properties, file_bytes, encoder, open: None, files: Vec::new() })
    }

    pub(crate) fn encoder(&self) -> GroupEncoder {
        self.encoder.clone()
    }

    fn begin(&self) -> Result<OpenFile> {
        let location = self.folder.child(&format!("part-{:05}.parquet", self.files.len()));
        let (writer, _) = serialized(&self.schema, &self.properties).map_err(|e| unwritable(&e, &location))?;
        Ok(OpenFile { rows: 0, writer, sink: HashingWriter::new(location.clone()), location })
    }

    /// Appends a row group.
    pub(crate) async fn push(&mut self, group: EncodedGroup) -> Result<()> {
        let file = match &mut self.open {
            Some(file) => file,
            None => {
                let file = self.begin()?;
                self.open.insert(file)
            }
        };
        file.rows += group.rows;
        let bytes = append(&mut file.writer, group.chunks).map_err(|e| unwritable(&e, &file.location))?;
        file.sink.write(Bytes::from(bytes)).await.map_err(|e| unwritable(&e, &file.location))?;
        if file.writer.bytes_written() >= self.file_bytes {
            self.close().await?;
        }
        Ok(())
    }

    async fn close(&mut self) -> Result<()> {
        let Some(OpenFile { location, rows, writer, mut sink }) = self.open.take() else { return Ok(()) };
        let ended = async {
            sink.write(Bytes::from(writer.into_inner()?)).await?;
            sink.complete().await
        };
        ended.await.map_err(|e| unwritable(&e, &location))?;
        self.files.push(sink.staged(self.files.len(), rows));
        Ok(())
    }

    /// Ends the last file; without any rows there is one file that has none, for its schema.
    pub(crate) async fn finish(&mut self) -> Result<Vec<StagedFile>> {
        if self.open.is_none() && self.files.is_empty() {
            self.open = Some(self.begin()?);
        }
        self.close().await?;
        Ok(std::mem::take(&mut self.files))
    }

    /// Gives up; nothing stays in the folder.
    pub(crate) async fn abort(&mut self) {
        if let Some(file) = self.open.take() {
            file.sink.abort().await;
        }
        let _ = remove_folder(&self.folder).await;
    }
}

/// A file's beginning in memory, and what makes its row groups.
fn serialized(
    schema: &SchemaRef,
    properties: &WriterProperties,
) -> Result<(SerializedFileWriter<Vec<u8>>, ArrowRowGroupWriterFactory), ParquetError> {
    let options = ArrowWriterOptions::new().with_properties(properties.clone());
    ArrowWriter::try_new_with_options(Vec::new(), schema.clone(), options)?.into_serialized_writer()
}

/// Appends a row group and takes the file's bytes so far out of memory.
fn append(writer: &mut SerializedFileWriter<Vec<u8>>, chunks: Vec<ArrowColumnChunk>) -> Result<Vec<u8>, ParquetError> {
    let mut group = writer.next_row_group()?;
    for chunk in chunks {
        chunk.append_to_row_group(&mut group)?;
    }
    group.close()?;
    writer.flush()?;
    Ok(std::mem::take(writer.inner_mut()))
}
