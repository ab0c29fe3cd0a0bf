-- One content feature per item of tonight: the pooled embedding of its accepted item reasons, of its evidence, or of both, as
-- $vector_of says (item_embedding.sql); `source` says which. `n_reasons` and `mean_score` are of the reasons behind it: none where
-- it is the evidence's. Where correction has chosen another text or the evidence (item_correction.sql), that stands in the place
-- of the reasons. An item that nothing is said of has zeros ($zero_embedding, as wide as the encoder) and `missing` set. `words`
-- are those of item_words.sql, whatever the embedding is of.
with corrected as (
    select item_id, correction, score
    from item_correction
    where correction in ('rewritten', 'evidence')
),
scored as (
    select s.item_id, s.score
    from reason_score as s
    left anti join corrected as c on c.item_id = s.item_id
    where s.kind = 'item' and s.accepted and s.item_id is not null
    union all
    select item_id, score
    from corrected
    where correction = 'rewritten'
),
said_of as (
    select
        item_id,
        array_to_string(
            array_concat(make_array(subject), attributes, content, praise, fault, keywords), ' ') as said
    from reason_prompt
    where kind = 'item'
),
evidence as (
    select distinct item_id
    from said_of
    where said <> ''
),
accepted as (
    select
        s.item_id,
        count(*) as n_reasons,
        -- Summed as decimals, so that the order of the rows cannot change the last bit.
        sum(cast(least(greatest(s.score, -1e9), 1e9) as decimal(18, 8))) filter (where s.score is not null) as score_sum,
        count(s.score) as n_scores
    from scored as s
    left anti join (select item_id from evidence where $vector_of = 'evidence') as e on e.item_id = s.item_id
    group by s.item_id
),
found as (
    select
        p.entity_id as item_id,
        a.n_reasons,
        a.score_sum,
        a.n_scores,
        p.embedding,
        case when a.n_reasons is null then 'evidence' when e.item_id is null then 'reason' else 'both' end as source
    from item_embedding as p
    left join accepted as a on a.item_id = p.entity_id
    left join (select item_id from evidence where $vector_of = 'both') as e on e.item_id = p.entity_id
    where p.embedding is not null
)
select
    cast(t.item_id as varchar) as item_id,
    $as_of as event_timestamp,
    $interval_end as created_timestamp,
    case when f.item_id is not null then f.embedding else $zero_embedding end as embedding,
    cast(coalesce(f.n_reasons, 0) as integer) as n_reasons,
    cast(case when f.n_scores > 0 then cast(f.score_sum as double) / cast(f.n_scores as double) end as float)
        as mean_score,
    f.item_id is null as missing,
    cast(coalesce(f.source, 'none') as varchar) as source,
    coalesce(w.words, cast(make_array() as varchar[])) as words
from item_audience as t
left join found as f on f.item_id = t.item_id
left join item_words as w on w.item_id = t.item_id
order by item_id
