//! The language model as SQL functions: `fit_evidence`, `render_prompt`, `render_stem`, `prompt_key`, `generate`,
//! `mean_logprob`, `embed`; and those over the answer format and the texts of prompts, which need no model: `reason_text`, `reason_field`,
//! `example_prompt`, `example_answer`.
//!
//! Knows DataFusion's function traits and [`Models`]. The functions that need weights are asynchronous: they submit
//! their rows to the engine's thread and wait, so that no model runs on a worker of the query engine.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, Float32Array, Float64Array, ListBuilder, StringArray, StringBuilder,
    StructArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Fields};
use async_trait::async_trait;
use datafusion::common::{DataFusionError, Result as DfResult};
use datafusion::logical_expr::async_udf::{AsyncScalarUDF, AsyncScalarUDFImpl};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility, create_udf,
};
use rayon::prelude::*;

use crate::columns::{as_text_lists, at};
use crate::error::{Error, Result};
use crate::generate::answers::Examples;
use crate::generate::fields;
use crate::generate::fit::{self, Fitted, Measure};
use crate::generate::format;
use crate::generate::models::Models;
use crate::generate::prompt::{Evidence, PromptTemplate};
use crate::generate::row::Question;
#[cfg(feature = "cluster")]
use crate::generate::sent::Sent;

/// All functions, ready to be registered in a session.
///
/// `fit_evidence(kind, subject, verdict, liked, disliked, related, attributes, content, praise, fault, keywords)` is a struct of
/// subject and lists under these names, shortened so that the prompt fits, with the prompt as `prompt_text` and
/// `answer_stem`; see [`fit`]. `render_prompt` and `render_stem` take the
/// same arguments, or the first seven: the other lists are empty then.
pub fn all(models: &Arc<Models>) -> Vec<ScalarUDF> {
    let function = |what: What| Function { what, source: Source::Here(models.clone()), signature: what.signature() };
    let sync = What::OF_PROMPTS.map(|what| ScalarUDF::new_from_impl(function(what)));
    let with_model = [What::Generate, What::MeanLogprob, What::Embed]
        .map(|what| AsyncScalarUDF::new(Arc::new(function(what))).into_scalar_udf());
    sync.into_iter().chain(with_model).chain(without_model()).collect()
}

/// The functions that need neither a job nor a model.
///
/// `reason_text(stem, text)` is the reason in an answer, null where its format is broken. `reason_field(stem, text, name)` is
/// what a field of it says, null where it says nothing, has no such field or is not whole.
/// `example_prompt(task, subject, verdict, liked, disliked, related, attributes, extra)` and `example_answer(the same,
/// key)` are a question and its answer after `<think>`.
pub fn without_model() -> Vec<ScalarUDF> {
    let text = DataType::Utf8;
    let list = DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)));
    let lists = std::iter::repeat_n(list, 5);
    let evidence: Vec<DataType> = [text.clone(), text.clone(), text.clone()].into_iter().chain(lists).collect();
    let keyed: Vec<DataType> = evidence.iter().cloned().chain([text.clone()]).collect();
    let reason_text = |args: &[ColumnarValue]| {
        let args = ColumnarValue::values_to_arrays(args)?;
        let (stem, text) = (texts(&args[0])?, texts(&args[1])?);
        let reason = |i| format::reason_text(at(&stem, i).unwrap_or_default(), at(&text, i)?);
        Ok(ColumnarValue::Array(Arc::new((0..text.len()).map(reason).collect::<StringArray>())))
    };
    let reason_field = |args: &[ColumnarValue]| {
        let args = ColumnarValue::values_to_arrays(args)?;
        let [stem, text, name] = [texts(&args[0])?, texts(&args[1])?, texts(&args[2])?];
        let field = |i| {
            let stem = at(&stem, i).filter(|stem| fields::is_asked(stem))?;
            let filled = fields::parse(&format!("{stem}{}", at(&text, i)?))?;
            filled.field(at(&name, i)?).map(str::to_owned)
        };
        Ok(ColumnarValue::Array(Arc::new((0..text.len()).map(field).collect::<StringArray>()) as ArrayRef))
    };
    let example = |args: &[ColumnarValue]| {
        let args = ColumnarValue::values_to_arrays(args)?;
        let [task, subject, verdict] = [texts(&args[0])?, texts(&args[1])?, texts(&args[2])?];
        let [liked, disliked, related] = [lists_of(&args[3])?, lists_of(&args[4])?, lists_of(&args[5])?];
        let [attributes, extra] = [lists_of(&args[6])?, lists_of(&args[7])?];
        let key = args.get(8).map(texts).transpose()?;
        let examples = Examples::new().map_err(external)?;
        let rows: Result<Vec<String>> = (0..task.len())
            .map(|i| {
                let evidence = Evidence {
                    kind: at(&task, i).unwrap_or_default().to_string(),
                    subject: at(&subject, i).map(str::to_string),
                    verdict: at(&verdict, i).unwrap_or_default().to_string(),
                    liked: liked[i].clone(),
                    disliked: disliked[i].clone(),
                    related: related[i].clone(),
                    attributes: attributes[i].clone(),
                    extra: extra[i].clone(),
                    ..Evidence::default()
                };
                match &key {
                    Some(key) => examples.answer(&evidence, at(key, i).unwrap_or_default()),
                    None => examples.question(&evidence),
                }
            })
            .collect();
        Ok(ColumnarValue::Array(Arc::new(StringArray::from_iter_values(rows.map_err(external)?)) as ArrayRef))
    };
    let pure = Volatility::Immutable;
    vec![
        create_udf("reason_text", vec![text.clone(), text.clone()], text.clone(), pure, Arc::new(reason_text)),
        create_udf("reason_field", vec![text.clone(); 3], text.clone(), pure, Arc::new(reason_field)),
        create_udf("example_prompt", evidence, text.clone(), pure, Arc::new(example)),
        create_udf("example_answer", keyed, text, pure, Arc::new(example)),
    ]
}

/// Where a function has its models from.
enum Source {
    /// The models of this process's job.
    Here(Arc<Models>),
    /// Those of a job that another process has sent, opened with the first row.
    #[cfg(feature = "cluster")]
    Sent(Arc<Sent>),
}

impl Source {
    fn models(&self) -> DfResult<Arc<Models>> {
        match self {
            Source::Here(models) => Ok(models.clone()),
            #[cfg(feature = "cluster")]
            Source::Sent(sent) => sent.models().map_err(external),
        }
    }
}

/// A function of prompts for one that travels to another process: its name tells which one, and its models are those of a
/// job that was sent. `None` for what is none.
#[cfg(feature = "cluster")]
pub(super) fn of_sent(name: &str, sent: Arc<Sent>) -> Option<ScalarUDF> {
    let what = What::OF_PROMPTS.into_iter().find(|what| what.name() == name)?;
    Some(ScalarUDF::new_from_impl(Function { what, source: Source::Sent(sent), signature: what.signature() }))
}

/// What travels with a function of prompts: the job that it came with, or `own`, that of this process. `None` for any other
/// function.
#[cfg(feature = "cluster")]
pub(super) fn sent_with(function: &ScalarUDF, own: Option<&Arc<Sent>>) -> Option<Arc<Sent>> {
    match &function.inner().downcast_ref::<Function>()?.source {
        Source::Here(_) => own.cloned(),
        Source::Sent(sent) => Some(sent.clone()),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum What {
    FitEvidence,
    RenderPrompt,
    RenderStem,
    PromptKey,
    Generate,
    MeanLogprob,
    Embed,
}

impl What {
    /// Those that need templates and a tokenizer, and no weights.
    const OF_PROMPTS: [What; 4] = [What::FitEvidence, What::RenderPrompt, What::RenderStem, What::PromptKey];

    fn name(self) -> &'static str {
        match self {
            What::FitEvidence => "fit_evidence",
            What::RenderPrompt => "render_prompt",
            What::RenderStem => "render_stem",
            What::PromptKey => "prompt_key",
            What::Generate => "generate",
            What::MeanLogprob => "mean_logprob",
            What::Embed => "embed",
        }
    }

    fn signature(self) -> Signature {
        let arities: &[usize] = match self {
            What::FitEvidence => &[11],
            What::RenderPrompt | What::RenderStem => &[7, 11],
            What::PromptKey | What::Generate => &[1, 2],
            What::MeanLogprob => &[2],
            What::Embed => &[1],
        };
        let kinds = arities.iter().map(|n| TypeSignature::Any(*n)).collect();
        // The planner folds constants by calling the function synchronously, which an asynchronous function does not
        // support.
        let is_async = matches!(self, What::Generate | What::MeanLogprob | What::Embed);
        Signature::one_of(kinds, if is_async { Volatility::Volatile } else { Volatility::Stable })
    }
}

struct Function {
    what: What,
    source: Source,
    signature: Signature,
}

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.what.name())
    }
}

impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        let is_same = match (&self.source, &other.source) {
            (Source::Here(one), Source::Here(other)) => Arc::ptr_eq(one, other),
            #[cfg(feature = "cluster")]
            (Source::Sent(one), Source::Sent(other)) => one == other,
            #[cfg(feature = "cluster")]
            _ => false,
        };
        self.what == other.what && is_same
    }
}

impl Eq for Function {}

impl Hash for Function {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.what.hash(state);
    }
}

fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// The arguments as arrays of one length.
fn arrays(args: &ScalarFunctionArgs) -> DfResult<Vec<ArrayRef>> {
    args.args.iter().map(|a| a.to_array(args.number_rows)).collect()
}

fn texts(array: &ArrayRef) -> DfResult<StringArray> {
    Ok(cast(array, &DataType::Utf8)?.as_string::<i32>().clone())
}

fn lists_of(array: &ArrayRef) -> DfResult<Vec<Vec<String>>> {
    if array.data_type() == &DataType::Null {
        return Ok(vec![Vec::new(); array.len()]);
    }
    let item = Arc::new(Field::new("item", DataType::Utf8, true));
    Ok(as_text_lists(&cast(array, &DataType::List(item))?))
}

/// The evidence of each row: kind, subject, verdict and the lists; the last four may be absent.
fn evidence_of(args: &[ArrayRef]) -> DfResult<Vec<Evidence>> {
    let [kind, subject, verdict] = [texts(&args[0])?, texts(&args[1])?, texts(&args[2])?];
    let mut lists = Vec::with_capacity(args.len());
    for array in &args[3..] {
        lists.push(lists_of(array)?.into_iter());
    }
    let mut rows = Vec::with_capacity(kind.len());
    for i in 0..kind.len() {
        let mut of_row = lists.iter_mut().map(|list| list.next().unwrap_or_default());
        let mut next = || of_row.next().unwrap_or_default();
        rows.push(Evidence {
            kind: at(&kind, i).unwrap_or_default().to_string(),
            subject: at(&subject, i).map(str::to_string),
            verdict: at(&verdict, i).unwrap_or_default().to_string(),
            liked: next(),
            disliked: next(),
            related: next(),
            attributes: next(),
            content: next(),
            praise: next(),
            fault: next(),
            keywords: next(),
            extra: Vec::new(),
        });
    }
    Ok(rows)
}

/// A list of the evidence: its name in SQL, and how to take it.
type ListOf = (&'static str, fn(&Evidence) -> &Vec<String>);

/// The lists of what `fit_evidence` returns, in their order.
const FITTED: [ListOf; 8] = [
    ("liked", |e| &e.liked),
    ("disliked", |e| &e.disliked),
    ("related", |e| &e.related),
    ("attributes", |e| &e.attributes),
    ("content", |e| &e.content),
    ("praise", |e| &e.praise),
    ("fault", |e| &e.fault),
    ("keywords", |e| &e.keywords),
];

/// The fields of what `fit_evidence` returns.
fn fitted_fields() -> Fields {
    let list = || DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)));
    let lists = FITTED.iter().map(|(name, _)| Field::new(*name, list(), true));
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let rest = [text("prompt_text"), text("answer_stem")];
    std::iter::once(text("subject")).chain(lists).chain(rest).collect()
}

/// Prompts of one template, as the generator reads them.
struct Prompts<'a> {
    models: &'a Models,
    template: &'a PromptTemplate,
    longest: usize,
}

impl Measure for Prompts<'_> {
    fn render(&self, evidence: &Evidence) -> Result<(String, String)> {
        self.template.render(evidence)
    }

    fn prompt(&self, question: &str, stem: &str) -> Result<usize> {
        self.models.count(question, stem, self.longest)
    }

    fn text(&self, text: &str) -> Result<usize> {
        self.models.count_text(text)
    }
}

impl Function {
    fn vector_type(&self) -> DfResult<DataType> {
        let width = self.source.models()?.encoder_files().map_err(external)?.dimension();
        Ok(DataType::FixedSizeList(Arc::new(Field::new("item", DataType::Float32, false)), width as i32))
    }

    fn render(
        &self,
        args: &[ArrayRef],
        section: fn(&PromptTemplate, &Evidence) -> Result<String>,
    ) -> DfResult<ArrayRef> {
        let models = self.source.models()?;
        let rows: Result<Vec<String>> =
            evidence_of(args)?.iter().map(|evidence| section(models.template(&evidence.kind)?, evidence)).collect();
        Ok(Arc::new(StringArray::from_iter_values(rows.map_err(external)?)))
    }

    /// Evidence whose prompts fit, as structs.
    fn fit(&self, args: &[ArrayRef]) -> DfResult<ArrayRef> {
        let models = self.source.models()?;
        // Before threads that cannot wait for it.
        models.model_name().map_err(external)?;
        let (models, longest) = (&*models, models.longest_prompt());
        let rows: Result<Vec<Fitted>> = evidence_of(args)?
            .into_par_iter()
            .map(|evidence| {
                let template = models.template(&evidence.kind)?;
                fit::fit(&evidence, longest, &Prompts { models, template, longest })
            })
            .collect();
        let rows = rows.map_err(external)?;
        let subject: ArrayRef =
            Arc::new(rows.iter().map(|row| row.evidence.subject.as_deref()).collect::<StringArray>());
        let lists = FITTED.iter().map(|(_, list)| {
            let mut all = ListBuilder::new(StringBuilder::new());
            rows.iter().for_each(|row| all.append_value(list(&row.evidence).iter().map(Some)));
            Arc::new(all.finish()) as ArrayRef
        });
        let text = |of: fn(&Fitted) -> &str| Arc::new(StringArray::from_iter_values(rows.iter().map(of))) as ArrayRef;
        let rest = [text(|row| &row.question), text(|row| &row.stem)];
        let columns: Vec<ArrayRef> = std::iter::once(subject).chain(lists).chain(rest).collect();
        Ok(Arc::new(StructArray::try_new(fitted_fields(), columns, None)?))
    }

    fn prompt_keys(&self, args: &[ArrayRef]) -> DfResult<ArrayRef> {
        let models = self.source.models()?;
        models.model_name().map_err(external)?;
        let (prompt, stem) = prompt_and_stem(args)?;
        let keys: Result<Vec<String>> = (0..prompt.len())
            .into_par_iter()
            .map(|i| models.prompt_key(at(&prompt, i).unwrap_or_default(), stem_at(&stem, i)))
            .collect();
        Ok(Arc::new(StringArray::from_iter_values(keys.map_err(external)?)))
    }

    /// Generates for each row; a row that fails is null, and a warning says why.
    async fn generate(&self, args: &[ArrayRef]) -> DfResult<ArrayRef> {
        let (prompt, stem) = prompt_and_stem(args)?;
        // Each distinct prompt is generated once.
        let mut distinct: Vec<(&str, &str)> = Vec::new();
        let mut place = std::collections::HashMap::new();
        let rows: Vec<Option<usize>> = (0..prompt.len())
            .map(|i| {
                let pair = (at(&prompt, i)?, stem_at(&stem, i));
                Some(*place.entry(pair).or_insert_with(|| {
                    distinct.push(pair);
                    distinct.len() - 1
                }))
            })
            .collect();
        let question = |(prompt, stem): &(&str, &str)| Question {
            prompt: (*prompt).to_owned(),
            stem: (*stem).to_owned(),
            attempt: 1,
        };
        let models = self.source.models()?;
        let results = models.write_all(distinct.iter().map(question).collect()).await.map_err(external)?;
        for (i, result) in results.iter().enumerate() {
            if let Err(e) = result {
                tracing::warn!(error = e.code(), detail = %e, prompt = distinct[i].0, "generate() failed for a prompt; its rows are null");
            }
        }
        let text =
            |row: &Option<usize>| results.get((*row)?)?.as_ref().ok().map(|written| written.text.trim().to_string());
        Ok(Arc::new(rows.iter().map(text).collect::<StringArray>()))
    }

    /// Mean log-probability of an answer's tokens after a prompt, in nats.
    async fn mean_logprob(&self, args: &[ArrayRef]) -> DfResult<ArrayRef> {
        let (prompt, answer) = (texts(&args[0])?, texts(&args[1])?);
        let rows: Vec<usize> = (0..prompt.len()).filter(|i| prompt.is_valid(*i) && answer.is_valid(*i)).collect();
        let models = self.source.models()?;
        let requests: Result<Vec<_>> = rows
            .iter()
            .enumerate()
            .map(|(id, i)| models.score_request(id as u64, prompt.value(*i), answer.value(*i)))
            .collect();
        let results = models.run(requests.map_err(external)?).await.map_err(external)?;
        let mut values: Vec<Option<f64>> = vec![None; prompt.len()];
        for (i, result) in rows.iter().zip(&results) {
            match result {
                Ok(c) => values[*i] = Some(c.logprob_sum / c.tokens.len().max(1) as f64),
                Err(e) => tracing::warn!(error = e.code(), detail = %e, "mean_logprob() failed for a row; it is null"),
            }
        }
        Ok(Arc::new(Float64Array::from(values)))
    }

    async fn embed(&self, args: &[ArrayRef]) -> DfResult<ArrayRef> {
        let (text, models) = (texts(&args[0])?, self.source.models()?);
        let DataType::FixedSizeList(item, width) = self.vector_type()? else {
            return Err(DataFusionError::Internal("a vector is a fixed-size list".into()));
        };
        let nulls = text.nulls().cloned();
        let values = tokio::task::spawn_blocking(move || -> Result<Vec<f32>> {
            let all: Vec<&str> = (0..text.len()).map(|i| at(&text, i).unwrap_or_default()).collect();
            Ok(models.embed(&all)?.concat())
        })
        .await
        .map_err(|e| DataFusionError::External(Box::new(e)))?
        .map_err(external)?;
        let values: ArrayRef = Arc::new(Float32Array::from(values));
        Ok(Arc::new(FixedSizeListArray::try_new(item, width, values, nulls)?))
    }
}

fn prompt_and_stem(args: &[ArrayRef]) -> DfResult<(StringArray, Option<StringArray>)> {
    Ok((texts(&args[0])?, args.get(1).map(texts).transpose()?))
}

fn stem_at(stem: &Option<StringArray>, i: usize) -> &str {
    stem.as_ref().and_then(|s| at(s, i)).unwrap_or_default()
}

impl ScalarUDFImpl for Function {
    fn name(&self) -> &str {
        self.what.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        match self.what {
            What::MeanLogprob => Ok(DataType::Float64),
            What::Embed => self.vector_type(),
            What::FitEvidence => Ok(DataType::Struct(fitted_fields())),
            _ => Ok(DataType::Utf8),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let arrays = arrays(&args)?;
        let work = || match self.what {
            What::FitEvidence => self.fit(&arrays),
            What::RenderPrompt => self.render(&arrays, PromptTemplate::question),
            What::RenderStem => self.render(&arrays, PromptTemplate::stem),
            What::PromptKey => self.prompt_keys(&arrays),
            _ => Err(DataFusionError::Internal(format!("{} is asynchronous", self.what.name()))),
        };
        // Tokenization is slow; the worker's other tasks, such as renewing a lease, must keep running.
        let flavour = tokio::runtime::Handle::try_current().map(|handle| handle.runtime_flavor());
        let result = match flavour {
            Ok(tokio::runtime::RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
            _ => work(),
        };
        Ok(ColumnarValue::Array(result?))
    }
}

#[async_trait]
impl AsyncScalarUDFImpl for Function {
    async fn invoke_async_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let arrays = arrays(&args)?;
        let result = match self.what {
            What::Generate => self.generate(&arrays).await,
            What::MeanLogprob => self.mean_logprob(&arrays).await,
            What::Embed => self.embed(&arrays).await,
            _ => Err(DataFusionError::Internal(format!("{} is not asynchronous", self.what.name()))),
        };
        Ok(ColumnarValue::Array(result?))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    #![allow(clippy::disallowed_methods, reason = "the functions alone are tried, without the product's session")]
    use std::collections::BTreeMap;

    use arrow::array::RecordBatch;
    use datafusion::prelude::SessionContext;

    use super::*;
    use crate::config::Job;

    /// A session with the functions over the tiny models, and prompts of at most `tokens`.
    fn session(tokens: usize) -> (SessionContext, Arc<Models>) {
        let models = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/models");
        let text = format!(
            "name = 'n'\n[input]\ninteraction = 'a'\nitem = 'b'\n[evidence]\ntokens = {tokens}\n\
             [model]\ngenerator = '{models}/tiny-qwen3'\nencoder = '{models}/tiny-bert'\nmax_positions = 4096\n"
        );
        let models = Models::new(&Job::parse(&text, "job.toml", &[], &BTreeMap::new()).unwrap()).unwrap();
        let session = SessionContext::new();
        all(&models).into_iter().for_each(|function| session.register_udf(function));
        (session, models)
    }

    async fn rows(session: &SessionContext, sql: &str) -> Vec<RecordBatch> {
        session.sql(sql).await.unwrap().collect().await.unwrap()
    }

    #[tokio::test]
    async fn fitted_evidence_renders_to_a_prompt_that_fits() {
        let (session, models) = session(700);
        let sentence = "a long sentence about a heist in a city that never sleeps, ";
        let sql = format!(
            "with fitted as (
                select fit_evidence('item', 'Heat', 'like', make_array('Ronin', 'Collateral'), null, make_array('Casino'),
                    make_array('Crime'), make_array(repeat('{sentence}', 40)), make_array('Tense.'), null, make_array('heist')) as e),
            rendered as (
                select e,
                    render_prompt('item', e['subject'], 'like', e['liked'], e['disliked'], e['related'], e['attributes'],
                        e['content'], e['praise'], e['fault'], e['keywords']) as prompt,
                    render_stem('item', e['subject'], 'like', e['liked'], e['disliked'], e['related'], e['attributes'],
                        e['content'], e['praise'], e['fault'], e['keywords']) as stem
                from fitted)
            select e['subject'] as subject, array_to_string(e['content'], '|') as content, prompt, stem,
                e['prompt_text'] as fitted_prompt, e['answer_stem'] as fitted_stem
            from rendered"
        );
        let batches = rows(&session, &sql).await;
        let text = |name: &str| texts(batches[0].column_by_name(name).unwrap()).unwrap().value(0).to_owned();
        assert_eq!(text("subject"), "Heat");
        assert_eq!((text("fitted_prompt"), text("fitted_stem")), (text("prompt"), text("stem")));
        assert!(text("content").starts_with("a long sentence") && text("content").len() < 40 * sentence.len());
        assert!(text("prompt").contains(&text("content")), "{}", text("prompt"));
        let ids = models.generator().unwrap().tokenize(&text("prompt"), &text("stem")).unwrap();
        assert!(ids.len() <= 700, "{}", ids.len());
    }

    #[tokio::test]
    async fn seven_arguments_render_as_eleven_with_empty_lists() {
        let (session, _) = session(288);
        let seven = "'item', 'Heat', 'like', make_array('Ronin'), null, null, make_array('Crime')";
        let sql = format!("select render_prompt({seven}) as a, render_prompt({seven}, null, null, null, null) as b");
        let batches = rows(&session, &sql).await;
        assert_eq!(texts(batches[0].column(0)).unwrap(), texts(batches[0].column(1)).unwrap());
    }
}
