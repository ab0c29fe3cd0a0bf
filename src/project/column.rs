//! The column `collaborative`: which tables have it, and what stands in it.
//!
//! `item_feature` and `user_feature` have it, where the job names a projection, and no table of the job's own: whose
//! vectors these hold, and how wide they are, nobody knows. The table's definition makes all other columns; this one is
//! worked out from the id and `embedding` of each row. Null where `embedding` is zeros, which is where nothing is said
//! of the entity, and where the projection has no map for its kind.
//!
//! Knows contracts, batches and projections; knows nothing of where rows come from or go.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray, Float32Array, RecordBatch};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field, Float32Type, Schema};

use crate::columns::{at, text};
use crate::error::{Context, Error, Kind, Result};
use crate::feature::Entity;
use crate::project::map::CrossFitted;
use crate::project::saved::Projection;
use crate::project::space::WIDTH;
use crate::table::column_type::ColumnType;
use crate::table::contract::{Column, Contract};

/// The column's name.
pub const COLLABORATIVE: &str = "collaborative";
/// The column that it is worked out from.
const EMBEDDING: &str = "embedding";

/// The map of an entity.
fn map_of(entity: Entity, projection: &Projection) -> Option<&CrossFitted> {
    match entity {
        Entity::Item => Some(projection.item()),
        Entity::User => projection.user(),
    }
}

/// Whose features a table holds; `None` where it is no published table of features of one entity. A job's own contract of
/// one of the two counts where it has the grain and a vector `embedding`.
pub fn entity_of(contract: &Contract) -> Option<Entity> {
    let entity = Entity::ALL.into_iter().find(|entity| entity.table() == contract.name)?;
    let is_published = contract.build.as_ref().is_some_and(|build| build.publish);
    let is_vector = contract.column(EMBEDDING).is_some_and(|c| c.column_type == ColumnType::Vector);
    let is_of_grain = contract.grain == [entity.key(), "event_timestamp"];
    (is_published && is_vector && is_of_grain).then_some(entity)
}

/// The contract of a table in a job that names a projection: with the column, where the table has features of one
/// entity and no column of that name of its own.
pub fn extended(contract: Contract) -> Contract {
    if entity_of(&contract).is_none() || contract.column(COLLABORATIVE).is_some() {
        return contract;
    }
    contract.with_column(Column {
        name: COLLABORATIVE.to_owned(),
        column_type: ColumnType::FixedVector(WIDTH),
        nullable: true,
        description: "The embedding mapped to where the log has what texts like it go with; null where nothing is said, or nothing \
                      was learned."
            .to_owned(),
        aliases: Vec::new(),
        accept: Vec::new(),
        values: None,
        min: None,
        max: None,
        finite: true,
        min_length: None,
        carried: None,
        epoch: None,
    })
}

/// Whether a contract is one of [`extended`], and whose features it is about.
pub fn projected(contract: &Contract) -> Option<Entity> {
    let kind = contract.column(COLLABORATIVE).map(|column| &column.column_type);
    entity_of(contract).filter(|_| kind == Some(&ColumnType::FixedVector(WIDTH)))
}

/// The contract of what the table's definition makes: all columns but this one.
pub fn defined(contract: &Contract) -> Contract {
    let mut defined = contract.clone();
    defined.columns.retain(|column| column.name != COLLABORATIVE);
    defined
}

/// Rows of a table's definition with the column as the last one.
///
/// # Errors
/// `Kind::Internal` for rows without an id; `Kind::Config` for vectors that are not as wide as those that the
/// projection has learned.
pub fn with_column(batch: &RecordBatch, entity: Entity, projection: &Projection) -> Result<RecordBatch> {
    let mut images: Vec<Option<Vec<f32>>> = vec![None; batch.num_rows()];
    let embedding = batch.column_by_name(EMBEDDING).and_then(|c| c.as_fixed_size_list_opt());
    // What is no vector is a bad row of the table's definition, and is told of where its rows are held against the
    // contract.
    let vectors = embedding.and_then(|lists| Some((lists, lists.values().as_primitive_opt::<Float32Type>()?)));
    if let (Some((lists, values)), Some(map)) = (vectors, map_of(entity, projection)) {
        let ids = text(batch, entity.key())?;
        let width = lists.value_length() as usize;
        for (row, image) in images.iter_mut().enumerate() {
            let (Some(id), true) = (at(&ids, row), lists.is_valid(row)) else { continue };
            let start = lists.value_offset(row) as usize;
            let Some(vector) = values.values().get(start..start + width) else { continue };
            *image = map.apply(id, vector).map_err(|e| {
                e.of_kind(Kind::Config)
                    .with("table", entity.table())
                    .with("key", "model.projection")
                    .hint("learn one of this encoder's vectors with `curec learn project`")
            })?;
        }
    }
    let column = column_of(&images)?;
    let fields = batch.schema();
    let own = Field::new(COLLABORATIVE, column.data_type().clone(), true);
    let fields: Vec<Field> = fields.fields().iter().map(|field| field.as_ref().clone()).chain([own]).collect();
    let columns: Vec<ArrayRef> = batch.columns().iter().cloned().chain([column]).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
        .context(Kind::Internal, || "mapped vectors do not fit their rows".into())
}

/// `FixedSizeList<Float32, WIDTH>`; under a null stand zeros. An image that is narrower is filled up with zeros, one
/// with a number that is not finite stays as it is, and is found by the table's audit.
fn column_of(images: &[Option<Vec<f32>>]) -> Result<ArrayRef> {
    let mut values = vec![0.0_f32; images.len() * WIDTH];
    for (to, image) in values.chunks_exact_mut(WIDTH).zip(images) {
        to.iter_mut().zip(image.iter().flatten()).for_each(|(to, x)| *to = *x);
    }
    if images.iter().flatten().any(|image| image.len() > WIDTH) {
        return Err(Error::new(Kind::Model, "the projection is wider than the column that is published")
            .with("column", COLLABORATIVE)
            .hint("it was written by another version; learn it anew with `curec learn project`"));
    }
    let nulls: NullBuffer = images.iter().map(Option::is_some).collect();
    let DataType::FixedSizeList(field, width) = ColumnType::FixedVector(WIDTH).arrow(0) else {
        return Err(Error::new(Kind::Internal, "a vector's type is none"));
    };
    let values: ArrayRef = Arc::new(Float32Array::from(values));
    let vectors = FixedSizeListArray::try_new(field, width, values, Some(nulls).filter(|n| n.null_count() > 0));
    Ok(Arc::new(vectors.context(Kind::Internal, || "mapped vectors do not fit their width".into())?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::project::saved::tests::any;
    use arrow::array::StringArray;

    fn rows(ids: &[&str], width: usize, vectors: &[f32]) -> RecordBatch {
        let field = Arc::new(Field::new("item", DataType::Float32, false));
        let values: ArrayRef = Arc::new(Float32Array::from(vectors.to_vec()));
        let lists = FixedSizeListArray::try_new(field, width as i32, values, None).unwrap();
        let columns: [(&str, ArrayRef); 2] =
            [("item_id", Arc::new(StringArray::from(ids.to_vec()))), ("embedding", Arc::new(lists))];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    #[test]
    fn features_of_one_entity_have_the_column_and_nothing_else_has() {
        for (table, entity) in [("item_feature", Some(Entity::Item)), ("user_feature", Some(Entity::User))] {
            let plain = Contract::builtin(table).unwrap();
            assert_eq!(projected(&plain), None);
            let whole = extended(plain.clone());
            assert_eq!(projected(&whole), entity);
            assert_ne!(whole.digest(), plain.digest());
            assert_eq!(whole.columns.last().unwrap().name, COLLABORATIVE);
            assert!(whole.writer.no_dictionary.contains(&COLLABORATIVE.to_owned()));
            assert_eq!(defined(&whole).columns, plain.columns);
            assert_eq!(extended(whole.clone()), whole);
        }
        for table in ["pair_feature", "item_embedding", "reason_prompt", "item"] {
            let plain = Contract::builtin(table).unwrap();
            assert_eq!(extended(plain.clone()), plain, "{table}");
        }
        // A job's own table of the same shape.
        let mut own = Contract::builtin("item_feature").unwrap();
        own.name = "item_mood".to_owned();
        assert_eq!(extended(own.clone()), own);
    }

    #[test]
    fn an_entity_without_a_text_has_null() {
        let projection = any(3, "e", false);
        let made =
            with_column(&rows(&["a", "b"], 3, &[0.5, 0.0, 0.25, 0.0, 0.0, 0.0]), Entity::Item, &projection).unwrap();
        let column = made.column_by_name(COLLABORATIVE).unwrap();
        assert_eq!(column.data_type(), &ColumnType::FixedVector(WIDTH).arrow(0));
        assert!(column.is_valid(0) && column.is_null(1));
        let first = column.as_fixed_size_list().value(0);
        let wanted = projection.item().apply("a", &[0.5, 0.0, 0.25]).unwrap().unwrap();
        assert_eq!(first.as_primitive::<Float32Type>().values(), wanted.as_slice());
    }

    #[test]
    fn a_kind_without_a_map_has_nulls_and_another_width_is_refused() {
        let batch = rows(&["a"], 3, &[0.5, 0.0, 0.25]);
        let renamed =
            RecordBatch::try_from_iter([("user_id", batch.column(0).clone()), ("embedding", batch.column(1).clone())]);
        let made = with_column(&renamed.unwrap(), Entity::User, &any(3, "e", false)).unwrap();
        assert_eq!(made.column(2).null_count(), 1);
        let told = with_column(&batch, Entity::Item, &any(4, "e", false)).unwrap_err().explain();
        assert!(told.contains("model.projection") && told.contains("item_feature"), "{told}");
    }
}
